"""Run files and generated corpora that ship with the package."""
