"""The corpus: from what a run file names to examples, and what the stages hand to each other."""
