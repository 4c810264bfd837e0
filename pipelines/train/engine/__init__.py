"""What a training worker does: the loop, DeepSpeed, checkpoints, export."""
