"""What evaluate and compare share: predictions, systems, statistics."""
