"""Starting Ray, or connecting to it."""
