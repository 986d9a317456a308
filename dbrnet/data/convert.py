"""One sample of a source to one of the canonical dataset, on all cores and in bounded memory."""

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import About, Card, Image, Mask, Sample, content_hash
from dbrnet.data.image_decoding import DecodedImage
from dbrnet.data.readers.reader import RawSample
from dbrnet.errors import UserError
from dbrnet.provenance import available_cores

ReadImage = Callable[[Path], DecodedImage]

_AHEAD = 4  # results that wait for each thread; more would only take memory
_MAX_THREADS = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Converted:
    """A sample that was checked and is ready to be written."""

    raw: RawSample
    image: bytes
    suffix: str
    mask: bytes  # PNG
    height: int
    width: int
    pixels: NDArray[np.int64]  # [C], of each class
    overlap: int
    grey: int
    brightest: int | None
    image_sha256: str
    sha256: str

    def row(self, id_: str) -> Sample:
        """What samples.csv says of it."""
        return Sample(
            id=id_,
            image=f"images/{id_}{self.suffix}",
            mask=f"masks/{id_}.png",
            height=self.height,
            width=self.width,
            classes=tuple(int(label) for label in np.flatnonzero(self.pixels) if label),
            group=id_ if self.raw.group == self.raw.id else self.raw.group,
            sha256=self.sha256,
            image_sha256=self.image_sha256,
            published=self.raw.published,
        )

    def store(self, id_: str, out: Path) -> Sample:
        """Write both files under the dataset's folder `out`, and return the row."""
        sample = self.row(id_)
        (out / sample.image).write_bytes(self.image)
        (out / sample.mask).write_bytes(self.mask)
        return sample


def convert(raw: RawSample, read_image: ReadImage, classes: int) -> Converted:
    """Read one sample and check its mask against the image; `UserError` names the file at fault."""
    image = read_image(raw.image)
    height, width = image.pixels.shape[:2]
    mask = raw.read_mask(height, width)
    if mask.ids.shape != (height, width):
        found = " x ".join(map(str, mask.ids.shape))
        raise UserError(f"{raw.image} is {height} x {width} (height x width) and its mask {found}")
    pixels = count_classes(mask.ids, classes, raw.image)
    image_sha256, sha256 = pixel_hashes(image.pixels, mask.ids)
    return Converted(
        raw=raw,
        image=image.data,
        suffix=image.suffix,
        mask=cv2.imencode(".png", mask.ids)[1].tobytes(),
        height=height,
        width=width,
        pixels=pixels,
        overlap=mask.overlap,
        grey=mask.grey,
        brightest=image.brightest,
        image_sha256=image_sha256,
        sha256=sha256,
    )


def count_classes(mask: Mask, classes: int, name: Path | str) -> NDArray[np.int64]:
    """How many pixels [C] each class has; an id past the last class is a `UserError` that names `name`."""
    highest = int(mask.max())
    if highest >= classes:
        raise UserError(f"{name}: its mask holds class id {highest}, and ids go to {classes - 1}")
    # A few comparisons take a quarter of bincount's time, which first makes 64-bit numbers of the ids.
    counts = [int(np.count_nonzero(mask == label)) for label in range(1, highest + 1)]
    counts += [0] * (classes - 1 - highest)
    return np.array([mask.size - sum(counts), *counts], np.int64)


def image_digest(image: Image) -> bytes:
    """A digest of the pixels [H, W, 3]: the same image saved again without loss keeps it."""
    return _hashed(image).digest()


def _hashed(image: Image) -> "hashlib._Hash":
    digest = hashlib.sha256(f"{image.shape[0]} {image.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(image).data)
    return digest


def pixel_hashes(image: Image, mask: Mask) -> tuple[str, str]:
    """The SHA-256 of the pixels [H, W, 3], and of these with the mask's [H, W]: what samples.csv holds."""
    digest = _hashed(image)
    image_sha256 = digest.hexdigest()
    digest.update(np.ascontiguousarray(mask).data)
    return image_sha256, digest.hexdigest()


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`function` of each of `items`, in their order, worked out by threads that run a little ahead.

    Decoding, hashing and encoding free the interpreter, so threads do. Unlike `Executor.map`, which takes
    all items at once, this keeps a fixed number of results, however many items there are.
    """
    threads = min(available_cores(), _MAX_THREADS)
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > threads * _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def describe(about: About, samples: tuple[Sample, ...], pixels: NDArray[np.int64], notes: tuple[str, ...]) -> Card:
    """The card of `samples`, whose masks hold `pixels` [C] of each class in all."""
    names = [info.name for info in about.classes]
    holding = {name: sum(label in (sample.classes or (0,)) for sample in samples) for label, name in enumerate(names)}
    return Card(
        **{name: getattr(about, name) for name in About.__dataclass_fields__},
        notes=notes,
        images=len(samples),
        groups=len({sample.group for sample in samples}),
        images_by_class=holding,
        pixel_shares=dict(zip(names, (pixels / pixels.sum()).tolist(), strict=True)),
        content_hash=content_hash(samples),
    )
