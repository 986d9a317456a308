"""A trained network on pictures of one's own: reading them, predicting them, and writing what was found."""
