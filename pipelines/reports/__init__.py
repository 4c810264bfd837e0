"""Building blocks of HTML reports: templates, tables, plots, number formats. They know nothing of a report's content."""
