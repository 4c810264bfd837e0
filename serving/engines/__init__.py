"""Engines: a loaded student that answers many concurrent requests. Each replica has one."""
