"""Near-duplicates in a dataset, what they mean for its splits, and checks of its labels."""
