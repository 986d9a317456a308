"""Training on several machines of a Kubernetes cluster."""
