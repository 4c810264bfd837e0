"""Run files and corpora that ship with the package."""
