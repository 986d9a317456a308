"""The network: DBRNet from the paper's equations, its ablation rows, and its cost in parameters and MACs."""
