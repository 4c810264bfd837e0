"""In: a student and held-out examples. Out: report."""
