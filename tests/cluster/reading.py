"""A process of a training on images in S3, one epoch: run by torchrun with `ADDRESS FOLDER WORKERS`.

Each process keeps what it fetches in a folder of its own, FOLDER/RANK.
"""

import os
import sys
from pathlib import Path

from dbrnet.data.remote_dataset import link_dataset
from dbrnet.training.loop import train
from tests.sections import PARAMS

VALIDATION = 4  # the last of the images


def main(address: str, folder: str, workers: str) -> None:
    dataset = link_dataset(address, Path(folder) / os.environ["RANK"])
    ids = [sample.id for sample in dataset.samples]
    recipe = PARAMS.train.model_copy(update={"epochs": 1, "batch_size": 4, "crop": (32, 32)})
    train(
        *(dataset, ids[:-VALIDATION], ids[-VALIDATION:], recipe, Path(folder) / "checkpoint"),
        workers=int(workers),
        checkpoint_seconds=60.0,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
