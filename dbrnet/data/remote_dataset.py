"""A canonical dataset whose images lie in S3 and are fetched when they are read, each checked by its hash.

Its folder holds the tables and

link.json       {"source": "s3://bucket/prefix/"}: where the dataset lies

and fills with the images that are read: a worker that trains on its share of each batch fetches that share.
No file is trusted because it exists. The tables must match the card's content hash, and each image with its
mask the hash in samples.csv, whenever it is read. A wrong file in the folder is fetched again; a wrong file in
S3 is an error. So a worker may be killed at any moment, and several may share a folder.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock
from typing import ClassVar

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
    pixel_hashes,
)
from dbrnet.errors import JobError, UserError
from dbrnet.files import read_json, write_atomically, write_json
from dbrnet.parallel import ordered_map
from dbrnet.storage.archive import safe_path
from dbrnet.storage.s3 import PARALLEL, S3Folder

_AHEAD = 4 * PARALLEL  # images being fetched or waiting to be read


def send_dataset(dataset: Dataset, address: str) -> None:
    """Send a dataset to `address`, the card last; a file that is there with its size is not sent again.

    The prefix must hold this dataset or nothing, such as one named after the tables' hashes. Raises as `S3Folder`.
    """
    target = S3Folder(address)
    sent = target.sizes()
    if CARD_FILE in sent:
        return
    names = [name for sample in dataset.samples for name in (sample.image, sample.mask)]
    missing = [name for name in names if sent.get(name) != (dataset.root / name).stat().st_size]
    list(ordered_map(lambda name: target.write(name, (dataset.root / name).read_bytes()), missing, PARALLEL))
    for name in (SAMPLES_FILE, CARD_FILE):
        target.write(name, (dataset.root / name).read_bytes())


def link_dataset(address: str, folder: Path) -> "RemoteDataset":
    """Fetch the tables of the dataset at `address` into `folder`; its images are fetched when they are read.

    Raises `JobError` where the tables are missing or do not match the card's content hash, `UserError` where a
    name in them would leave the folder; otherwise as `S3Folder`.
    """
    source = S3Folder(address)
    for name in (CARD_FILE, SAMPLES_FILE):
        write_atomically(folder / name, source.read(name))
    write_json(folder / LINK_FILE, {"source": source.address})
    dataset = RemoteDataset.load(folder)
    for sample in dataset.samples:
        safe_path(sample.image, source.address), safe_path(sample.mask, source.address)
    if content_hash(dataset.samples) != dataset.card.content_hash:
        raise JobError(f"{source.address}{SAMPLES_FILE} does not make the card's content hash; send it again")
    return dataset


class RemoteDataset(Dataset):
    """A dataset in a folder with link.json. `dbrnet.data.open_dataset` opens it."""

    local: ClassVar[bool] = False

    def image(self, sample: Sample) -> Image:
        """The image as RGB, uint8, [H, W, 3]."""
        return self.pair(sample)[0]

    def mask(self, sample: Sample) -> Mask:
        """The class ids, uint8, [H, W]."""
        return self.pair(sample)[1]

    def pair(self, sample: Sample) -> tuple[Image, Mask]:
        """The image and its mask; raises `JobError` where S3 does not hold what samples.csv says."""
        fetcher = _fetcher(self.root, os.getpid())
        fetcher.wait_for(sample)
        return _decoded(sample, lambda name: (self.root / name).read_bytes()) or fetcher.fetch(sample)

    def prefetch(self, samples: Iterable[Sample]) -> None:
        """Fetch those of `samples` that are missing here, in their order and a little ahead of the reader."""
        _fetcher(self.root, os.getpid()).run_ahead(samples)


class _Fetcher:
    """A process's connections to a dataset's source, and the samples that are being fetched."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._source = S3Folder(read_json(root / LINK_FILE)["source"])
        self._pool = ThreadPoolExecutor(PARALLEL)
        self._pending: dict[str, Future[object]] = {}
        self._rest: Iterator[Sample] = iter(())
        self._lock = Lock()

    def run_ahead(self, samples: Iterable[Sample]) -> None:
        """Drop what was announced before, and begin to fetch `samples`."""
        with self._lock:
            for future in self._pending.values():
                future.cancel()
            self._pending = {}
            self._rest = iter(samples)
            self._top_up()

    def wait_for(self, sample: Sample) -> None:
        """Wait if `sample` is being fetched, and begin with the next one in its place."""
        with self._lock:
            future = self._pending.pop(sample.id, None)
            self._top_up()
        if future:
            future.result()

    def fetch(self, sample: Sample) -> tuple[Image, Mask]:
        """Fetch from the source to the folder; raises `JobError` if it is not what samples.csv says."""
        contents = {name: self._source.read(name) for name in (sample.image, sample.mask)}
        if (pair := _decoded(sample, contents.__getitem__)) is None:
            raise JobError(
                f"{self._source.address}{sample.image} or its mask is not what {SAMPLES_FILE} says (its hash "
                "differs); send the dataset again"
            )
        for name, content in contents.items():
            write_atomically(self._root / name, content)
        return pair

    def _top_up(self) -> None:
        while len(self._pending) < _AHEAD and (sample := next(self._rest, None)):
            if not all((self._root / name).exists() for name in (sample.image, sample.mask)):
                self._pending[sample.id] = self._pool.submit(self.fetch, sample)


@cache
def _fetcher(root: Path, process: int) -> _Fetcher:
    """One fetcher per process; threads and connections do not survive a fork."""
    return _Fetcher(root)


def _decoded(sample: Sample, read: Callable[[str], bytes]) -> tuple[Image, Mask] | None:
    """The pair, if it is what samples.csv says."""
    try:
        pair = decode_image(read(sample.image), sample.image), decode_grey(read(sample.mask), sample.mask)
    except (UserError, FileNotFoundError):
        return None
    return pair if pixel_hashes(*pair)[1] == sample.sha256 else None
