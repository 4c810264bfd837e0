"""In: labels. Out: student."""
