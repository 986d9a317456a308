"""Which images of a dataset show the same thing, and what that makes of a split."""
