"""The network: DBRNet from the equations of the paper, its ablation rows, and its cost.

Light on purpose: `config` reads the switches to check params.yaml, and must not load PyTorch.
"""

from pydantic import BaseModel, ConfigDict


class Switches(BaseModel):
    """Which of the paper's three modules the network has (the ablation of Tables 3 and 4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lfem: bool
    affm: bool
    dcppm: bool
