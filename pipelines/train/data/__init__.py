"""From labels to micro-batches."""
