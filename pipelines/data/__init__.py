"""Reading a corpus: files to examples."""
