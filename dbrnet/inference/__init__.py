"""Deployment: the exported graph, its parity with training, the runtimes that run it, and their speed."""
