"""A dataset small enough to train on in a second: dark and light squares on a noisy ground."""

from dataclasses import asdict
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from dbrnet.data.dataset import Card, ClassInfo, Dataset, Sample
from dbrnet.training.distributed import DistributedContext
from dbrnet.training.loop import TrainResult
from dbrnet.training.recipe import Recipe

ALONE = DistributedContext(torch.device("cpu"))
NAMES = ["background", "dark", "light"]
EACH_ITERATION = 1e-3  # seconds between two checkpoints
NEVER = 3600.0
RECIPE = Recipe.model_validate(
    {
        "seed": 3,
        "epochs": 3,  # of three batches
        "batch_size": 4,
        "defect_free": 1.0,
        "normalise_exposure": False,
        "image_size": None,
        "crop": (64, 64),
        "scale": (0.75, 1.5),
        "flip": True,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "schedule": "linear",
        "warmup_epochs": 1.0,
        "ohem_threshold": 0.7,
        "auxiliary_weight": 1.0,
        "ema_decay": None,
        "amp": True,
        "model": {"lfem": True, "affm": True, "dcppm": True},
    }
)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def train_ids() -> list[str]:
    return [f"p{index:02}" for index in range(14)]


@pytest.fixture(scope="session")
def val_ids() -> list[str]:
    return [f"p{index:02}" for index in range(14, 20)]


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
        for folder, pixels in (("images", image), ("masks", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(root / folder / f"{name}.png"), pixels)
        files = f"images/{name}.png", f"masks/{name}.png"
        samples.append(Sample(name, *files, height, width, (kind,), name, name, name))
    colors = ((0, 0, 0), (255, 0, 0), (0, 255, 0))
    card = Card(
        name="squares",
        title="Squares",
        classes=tuple(map(ClassInfo, NAMES, colors)),
        homepage="",
        citation="",
        licence="",
        group_rule="",
        leak_note="",
        notes=(),
        images=20,
        groups=20,
        images_by_class={"background": 0, "dark": 10, "light": 10},
        pixel_shares={},
        content_hash="squares",
    )
    dataset = Dataset(root, card, tuple(samples))
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
        "best": (result.best_epoch, result.best_miou),
        "step_losses": list(result.step_losses),
        "processes": result.processes,
    }
