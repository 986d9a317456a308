"""The registry: tracking runs in MLflow, the gate that decides, and the promotion it leads to."""
