"""What labelling reports: manifest, dataset card, progress, metrics, usage."""
