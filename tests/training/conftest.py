"""A dataset small enough to train on in a second: dark and light squares on a noisy ground."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch

from dbrnet.data.dataset import Dataset, Sample
from dbrnet.training.distributed import DistributedContext
from dbrnet.training.loop import TrainResult
from dbrnet.training.recipe import Recipe
from tests.data.conftest import make_dataset, write_image

ALONE = DistributedContext(torch.device("cpu"))
Splits = tuple[list[str], list[str]]
NAMES = ("background", "dark", "light")
EACH_ITERATION = 1e-3  # seconds between two checkpoints
NEVER = 3600.0
RECIPE = Recipe.model_validate(
    {
        "seed": 3,
        "start": None,
        "shrink": 1.0,
        "steps": 9,
        "batch_size": 4,
        "zoom": 1.0,
        "normalise_exposure": False,
        "crop": (64, 64),
        "focus": 0.5,
        "paste": 0.5,
        "scale": (0.75, 1.5),
        "symmetries": "flips",
        "photometric": True,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "linear",
        "warmup_steps": 3,
        "loss": "hierarchical",
        "ohem_threshold": 0.7,
        "auxiliary_weight": 0.4,
        "ema_decay": None,
        "amp": True,
        "compile": False,
        "model": {"lfem": True, "affm": True, "dcppm": True},
    }
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def splits() -> Splits:
    """The ids of the training and of the validation split."""
    ids = [f"p{index:02}" for index in range(20)]
    return ids[:14], ids[14:]


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """20 images of 64x64; the last two are 48x80."""
    root = tmp_path_factory.mktemp("squares")
    rng = np.random.default_rng(0)
    samples = []
    for index in range(20):
        height, width = (64, 64) if index < 18 else (48, 80)
        image = rng.integers(90, 140, (height, width, 3), dtype=np.uint8)
        mask = np.zeros((height, width), np.uint8)
        top, left = rng.integers(0, (height - 24, width - 24))
        kind = 1 + index % 2
        image[top : top + 24, left : left + 24] = (20, 230)[kind - 1]
        mask[top : top + 24, left : left + 24] = kind
        name = f"p{index:02}"
        files = f"images/{name}.png", f"masks/{name}.png"
        for file, pixels in zip(files, (image, mask), strict=True):
            write_image(root / file, pixels)
        samples.append(Sample(name, *files, height, width, (kind,), name, name, name))
    dataset = make_dataset(root, tuple(samples), NAMES)
    dataset.save_tables()
    return dataset


def content(result: TrainResult) -> dict[str, Any]:
    """All of a result but the times, which differ from run to run."""
    rows = [asdict(row) for row in result.history]
    for row in rows:
        del row["seconds"], row["images_per_second"]
    return {
        "weights": result.model.state_dict(),
        "rows": rows,
        "chosen": (result.chosen_step, result.val_miou),
        "step_losses": list(result.step_losses),
        "processes": result.processes,
    }
