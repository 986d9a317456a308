"""Pretraining on generated metal surfaces, for a start that has seen defects and is free of anyone's data."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dbrnet.data import surfaces
from dbrnet.data.dataset import ClassInfo, Image, Mask
from dbrnet.data.loading import DEVIATION, MEAN, normalise_exposure
from dbrnet.files import sha256_file
from dbrnet.models import Switches
from dbrnet.models.saved import ModelMeta
from dbrnet.training.distributed import join_processes
from dbrnet.training.loop import OnValidation, Run, TrainResult
from dbrnet.training.recipe import Recipe
from dbrnet.training.task import Task

NORMALISED = 0.75  # share of the crops whose exposure is normalised: a network should know both
VAL_IMAGES = 64
SIZE = (192, 192)  # pixels, of all
GREYS = ((MEAN / 255,) * 3, (DEVIATION / 255,) * 3)
CLASSES = tuple(
    ClassInfo(name, (25 * index, 255 - 25 * index, 120)) for index, name in enumerate(("background", *surfaces.KINDS))
)


@dataclass(frozen=True)
class GeneratedCrops:
    """Generated images of one size, each drawn when it is asked for."""

    size: tuple[int, int]
    seed: int

    def prefetch(self, places: Sequence[int]) -> None:
        """Nothing is fetched."""

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng([self.seed, place])
        image, mask = surfaces.draw(random, *self.size)
        if random.random() < NORMALISED:
            image = normalise_exposure(image)
        return torch.from_numpy(image), torch.from_numpy(mask)


@dataclass(frozen=True)
class Surface:
    """The size of a generated image in pixels. It is like no other, and its defects are known when it is drawn."""

    group: str
    height: int
    width: int
    classes: tuple[int, ...] = ()


class GeneratedImages:
    """Generated images to score on; no training ever sees them, whatever its seed."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.samples = [Surface(str(index), *size) for index in range(VAL_IMAGES)]
        streams = (np.random.default_rng([index, 0, 0, 1]) for index in range(VAL_IMAGES))
        self._drawn = [surfaces.draw(random, *size) for random in streams]

    def prefetch(self, indices: Iterable[int]) -> None:
        """Nothing is fetched."""

    def __getitem__(self, index: int) -> tuple[Image, Mask]:
        image, mask = self._drawn[index]
        return normalise_exposure(image), mask


def pretrain(
    workdir: Path, *, steps: int, seed: int, workers: int, on_validation: OnValidation | None = None
) -> TrainResult:
    """Train DBRNet on generated images for `steps` iterations; resumes from the checkpoint in `workdir`."""
    recipe = Recipe(
        seed=seed,
        start=None,
        shrink=1.0,
        steps=steps,
        batch_size=8,
        zoom=1.0,
        normalise_exposure=True,
        crop=SIZE,
        focus=0.0,  # the images themselves are balanced
        paste=0.0,
        scale=(1.0, 1.0),
        symmetries="none",
        photometric=False,
        learning_rate=0.05,
        momentum=0.9,
        weight_decay=0.0001,
        schedule="poly",
        warmup_steps=200,
        loss="hierarchical",
        ohem_threshold=1.0,
        auxiliary_weight=0.4,
        ema_decay=0.998,
        amp=True,
        compile=False,
        model=Switches(lfem=True, affm=True, dcppm=True),
    )
    meta = ModelMeta(classes=CLASSES, model=recipe.model, mean=GREYS[0], std=GREYS[1], zoom=1.0, normalised=True)
    with join_processes() as distributed:
        task = Task(GeneratedCrops(recipe.crop, seed), GeneratedImages(recipe.crop), meta)
        run = Run(task, recipe, distributed, workers=workers)
        run.finish(workdir, recipe.fingerprint(sha256_file(Path(surfaces.__file__)), {}, {}), 60.0, on_validation)
        return run.result()
