"""Training: loss, schedule, augmentation, checkpoints, and the loop."""
