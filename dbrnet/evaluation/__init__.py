"""Evaluation: metrics over a confusion matrix, overlays and plots, and the offline report."""
