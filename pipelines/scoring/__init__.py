"""Scoring of students on held-out examples, shared by evaluate and compare: predictions, systems, statistics."""
