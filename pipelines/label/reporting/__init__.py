"""What labelling reports: dataset card, usage, progress, metrics."""
