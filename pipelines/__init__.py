"""The pipelines for Kubeflow: the wiring of the components, how they are placed, compiled and run."""
