"""Reports as HTML pages that hold everything they need: one base template, tables, plots and the way numbers are written."""
