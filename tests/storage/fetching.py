"""A worker: `python -m tests.storage.fetching ADDRESS FOLDER RANK WORLD` reads its share of the images from S3."""

import sys
from pathlib import Path

from dbrnet.data.dataset import Dataset, Sample
from dbrnet.data.remote_dataset import link_dataset
from dbrnet.training.sampling import Sampler


def share(dataset: Dataset, rank: int, world: int) -> list[Sample]:
    """The images of every `world`-th place in each batch of four, until each image was there once."""
    sampler, count = Sampler(dataset.samples, seed=0, focus=0, paste=0), len(dataset.samples)
    batches = [range(first, min(first + 4, count)) for first in range(0, count, 4)]
    return [dataset.samples[sampler.draw(place).image] for batch in batches for place in batch[rank::world]]


def main(address: str, folder: str, rank: str, world: str) -> None:
    dataset = link_dataset(address, Path(folder))
    samples = share(dataset, int(rank), int(world))
    dataset.prefetch(samples)
    for sample in samples:
        dataset.pair(sample)


if __name__ == "__main__":
    main(*sys.argv[1:])
