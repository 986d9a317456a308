"""The ways to run a trained network, chosen by name."""
