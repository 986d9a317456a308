"""Training: recipe, loss, augmentation, checkpoints, and the loop."""
