"""What the driver writes: parts, commits, counts."""
