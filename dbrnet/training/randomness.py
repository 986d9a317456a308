"""The global random generators: seeded together, saved together, restored together.

Nothing in training draws from them after the weights are initialised (order and augmentation have their own
seeds), but a layer added one day may, and a resumed run must not depend on that.
"""

import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed Python's, numpy's and torch's global generators."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # all devices


def random_state() -> dict[str, Any]:
    """The state of all generators, in types that `torch.load(weights_only=True)` reads."""
    numpy_state: Any = np.random.get_state(legacy=False)
    numpy_state["state"]["key"] = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": numpy_state,
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Put all generators where `random_state` found them."""
    numpy_state = state["numpy"]
    inner = numpy_state["state"] | {"key": numpy_state["state"]["key"].numpy().astype(np.uint32)}
    random.setstate(state["python"])
    np.random.set_state(numpy_state | {"state": inner})
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
