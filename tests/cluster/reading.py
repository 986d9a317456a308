"""A process of a training on images in S3, one epoch: run by torchrun with `ADDRESS FOLDER WORKERS`.

Each process keeps what it fetches in a folder of its own, FOLDER/RANK.
"""

import os
import sys
from pathlib import Path

from dbrnet.config import TrainParams
from dbrnet.data.remote_dataset import link_dataset
from dbrnet.steps.train import recipe_of
from dbrnet.training.loop import train
from dbrnet.training.recipe import Recipe

VALIDATION = 4  # the last of the images


def recipe(workers: int) -> Recipe:
    params = TrainParams.model_validate(
        {"epochs": 1, "batch_size": 4, "crop": (32, 32), "defect_free": 1.0, "workers": workers}
    )
    return recipe_of(params)


def main(address: str, folder: str, workers: str) -> None:
    dataset = link_dataset(address, Path(folder) / os.environ["RANK"])
    ids = [sample.id for sample in dataset.samples]
    train(dataset, ids[:-VALIDATION], ids[-VALIDATION:], recipe(int(workers)), Path(folder) / "checkpoint")


if __name__ == "__main__":
    main(*sys.argv[1:])
