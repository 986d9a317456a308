"""Drift: how far new images have moved from those that the champion was trained on."""
