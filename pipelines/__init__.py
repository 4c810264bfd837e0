"""What a run is, and the stages that make artifacts: corpus -> labels -> student -> report."""
