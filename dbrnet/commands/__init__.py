"""The commands beside the pipeline's steps: predicting, the built-in data, and switching datasets."""
