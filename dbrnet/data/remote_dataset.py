"""A canonical dataset whose images lie in S3 and come when they are asked for, each checked by its hash.

A linked dataset's folder holds the tables and

link.json       {"source": "s3://bucket/prefix/"}: where the dataset lies

and fills with the images that are used: a worker that trains on its share of each batch fetches its share.
Nothing is trusted because it is there. The tables must make the card's content hash, and each image with
its mask the hash in samples.csv, whenever it is read: in the folder one that does not is fetched again, in S3
it is refused. So a worker may be killed at any moment, and several may share a folder.
"""

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import ClassVar

from dbrnet.data.convert import pixel_hashes
from dbrnet.data.dataset import (
    CARD_FILE,
    LINK_FILE,
    SAMPLES_FILE,
    Dataset,
    Image,
    Mask,
    Sample,
    content_hash,
    decode_grey,
    decode_image,
)
from dbrnet.errors import JobError, UserError
from dbrnet.files import read_json, write_atomically, write_json
from dbrnet.storage.archive import safe_path
from dbrnet.storage.object_store import S3Folder, side_by_side
from dbrnet.storage.s3 import PARALLEL

_AHEAD = 4 * PARALLEL  # images on their way or waiting to be read


def send_dataset(dataset: Dataset, address: str) -> None:
    """Send a dataset to `address`, the card last; what is there in its size already is not sent again.

    For a prefix that holds this dataset or nothing, such as one named after its tables. Raises as `S3Folder`.
    """
    target = S3Folder(address)
    there = target.sizes()
    if CARD_FILE in there:
        return
    names = [name for sample in dataset.samples for name in (sample.image, sample.mask)]
    missing = [name for name in names if there.get(name) != (dataset.root / name).stat().st_size]
    side_by_side(lambda name: target.write(name, (dataset.root / name).read_bytes()), missing)
    for name in (SAMPLES_FILE, CARD_FILE):
        target.write(name, (dataset.root / name).read_bytes())


def link_dataset(address: str, folder: Path) -> Dataset:
    """Fetch the tables of the dataset at `address` into `folder`; its images come when they are used.

    Raises `JobError` where the tables are not there or do not make the card's content hash, `UserError` where
    a name in them would leave the folder; else as `S3Folder`.
    """
    source = S3Folder(address)
    for name in (CARD_FILE, SAMPLES_FILE):
        write_atomically(folder / name, source.read(name))
    write_json(folder / LINK_FILE, {"source": source.address})
    dataset = Dataset.load(folder)
    for sample in dataset.samples:
        safe_path(sample.image, source.address), safe_path(sample.mask, source.address)
    if content_hash(dataset.samples) != dataset.card.content_hash:
        raise JobError(f"{source.address}{SAMPLES_FILE} does not make the card's content hash; send it again")
    return dataset


class RemoteDataset(Dataset):
    """What `Dataset.load` makes of a folder with a link."""

    at_hand: ClassVar[bool] = False

    def image(self, sample: Sample) -> Image:
        """The image as RGB, uint8, [H, W, 3]."""
        return self.pair(sample)[0]

    def mask(self, sample: Sample) -> Mask:
        """The class ids, uint8, [H, W]."""
        return self.pair(sample)[1]

    def pair(self, sample: Sample) -> tuple[Image, Mask]:
        """The image and its mask; raises `JobError` where S3 does not have what samples.csv says."""
        fetcher = _fetcher(self.root, os.getpid())
        fetcher.wait_for(sample)
        return _read(self.root, sample) or fetcher.fetch(sample)

    def prefetch(self, samples: Iterable[Sample]) -> None:
        """Fetch what of `samples` is not at hand, in their order and a little ahead of their being read."""
        _fetcher(self.root, os.getpid()).run_ahead(samples)


class _Fetcher:
    """A process's connections to a dataset's source, and what is on its way there."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._source = S3Folder(read_json(root / LINK_FILE)["source"])
        self._pool = ThreadPoolExecutor(PARALLEL)
        self._coming: dict[str, Future[object]] = {}
        self._rest: Iterator[Sample] = iter(())
        self._lock = Lock()

    def run_ahead(self, samples: Iterable[Sample]) -> None:
        """Forget what was to come, and send for the first of `samples`."""
        with self._lock:
            for future in self._coming.values():
                future.cancel()
            self._coming = {}
            self._rest = iter(samples)
            self._top_up()

    def wait_for(self, sample: Sample) -> None:
        """Wait if `sample` is on its way, and send for the next one in its place."""
        with self._lock:
            future = self._coming.pop(sample.id, None)
            self._top_up()
        if future:
            future.result()

    def fetch(self, sample: Sample) -> tuple[Image, Mask]:
        """From the source to the folder; `JobError` if it is not what samples.csv says."""
        contents = [self._source.read(name) for name in (sample.image, sample.mask)]
        if (pair := _decoded(sample, *contents)) is None:
            raise JobError(
                f"{self._source.address}{sample.image} or its mask is not what {SAMPLES_FILE} says (its hash "
                "differs); send the dataset again"
            )
        for name, content in zip((sample.image, sample.mask), contents, strict=True):
            write_atomically(self._root / name, content)
        return pair

    def _top_up(self) -> None:
        while len(self._coming) < _AHEAD and (sample := next(self._rest, None)):
            if not all((self._root / name).exists() for name in (sample.image, sample.mask)):
                self._coming[sample.id] = self._pool.submit(self.fetch, sample)


@cache
def _fetcher(root: Path, process: int) -> _Fetcher:
    """The one of this process: a fork inherits neither threads nor the right to its parent's connections."""
    return _Fetcher(root)


def _read(root: Path, sample: Sample) -> tuple[Image, Mask] | None:
    """What is in the folder, if it is what samples.csv says."""
    try:
        image, mask = ((root / name).read_bytes() for name in (sample.image, sample.mask))
    except FileNotFoundError:
        return None
    return _decoded(sample, image, mask)


def _decoded(sample: Sample, image: bytes, mask: bytes) -> tuple[Image, Mask] | None:
    try:
        pair = decode_image(image, sample.image), decode_grey(mask, sample.mask)
    except UserError:
        return None
    return pair if pixel_hashes(*pair)[1] == sample.sha256 else None
