"""A worker: `python -m tests.storage.fetching ADDRESS FOLDER RANK WORLD` reads its share of an epoch from S3."""

import sys
from pathlib import Path

from dbrnet.data.dataset import Dataset, Sample
from dbrnet.data.loading import epoch_batches
from dbrnet.data.remote_dataset import link_dataset


def share(dataset: Dataset, rank: int, world: int) -> list[Sample]:
    """The images of every `world`-th place in each batch of the first epoch."""
    batches = epoch_batches([False] * len(dataset.samples), 1.0, 4, seed=0, epoch=0)
    return [dataset.samples[index] for batch in batches for index in batch[rank::world]]


def main(address: str, folder: str, rank: str, world: str) -> None:
    dataset = link_dataset(address, Path(folder))
    samples = share(dataset, int(rank), int(world))
    dataset.prefetch(samples)
    for sample in samples:
        dataset.pair(sample)


if __name__ == "__main__":
    main(*sys.argv[1:])
