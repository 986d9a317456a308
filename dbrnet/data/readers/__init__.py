"""One module a dataset; `READERS` finds them by name."""
