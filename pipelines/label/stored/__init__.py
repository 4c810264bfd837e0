"""Answers that a teacher has given before: their keys, their files, and the rows that take them over."""
