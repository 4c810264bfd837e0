"""In: labels, and a grid of methods, fractions, students and seeds. Out: one report."""
