"""A trained network on images of one's own: reading them, predicting them, and writing what was found."""
