"""The network: DBRNet from the equations of the paper, its ablation rows, and its cost."""
