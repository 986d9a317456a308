"""Is retraining warranted? What came in since the champion was trained, and how far it has moved."""
