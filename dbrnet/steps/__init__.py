"""The pipeline's steps: one function each, paths and one section of parameters in, files out."""
