"""Engines: a student that answers many askers at once. One lives in each replica."""
