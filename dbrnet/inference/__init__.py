"""Export, runtimes and prediction: everything after training that runs the network."""
