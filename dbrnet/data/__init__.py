"""Datasets: readers into one canonical form, run-length masks, splitting, loading, and built-in data."""
