"""Durable labels: what is written, in which order, and what a run finds of earlier ones."""
