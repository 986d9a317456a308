"""From a source, a folder or an archive in a dataset's own layout, to the canonical dataset.

Each sample is decoded, checked, hashed and written by itself: on all cores and in bounded memory.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Card, Dataset, DatasetInfo, Mask, Sample, content_hash, count_by_class, pixel_hashes
from dbrnet.data.image_decoding import read_any
from dbrnet.data.readers import READERS, Measured, RawSample, find_layout
from dbrnet.errors import UserError
from dbrnet.parallel import ordered_map
from dbrnet.progress import progress
from dbrnet.storage.archive import open_source

_UNPACKED = ".unpacked"


@dataclass(frozen=True)
class Converted:
    """A sample that was checked and is ready to be written."""

    sample: Sample  # its row of samples.csv
    image: bytes
    mask: bytes  # PNG
    measured: Measured
    brightest: int | None  # of a 16-bit image

    def renamed(self, id_: str) -> Sample:
        """The row under another id."""
        sample = self.sample
        return replace(
            sample,
            id=id_,
            image=f"images/{id_}{Path(sample.image).suffix}",
            mask=f"masks/{id_}.png",
            group=id_ if sample.group == sample.id else sample.group,
        )

    def store(self, sample: Sample, out: Path) -> None:
        """Write image and mask under the dataset's folder `out`, as `sample` names them."""
        (out / sample.image).write_bytes(self.image)
        (out / sample.mask).write_bytes(self.mask)


def build_dataset(name: str, source: Path, out: Path, *, mask_threshold: int = 127) -> Dataset:
    """Read the dataset `name` from `source` and write it in canonical form into the empty folder `out`.

    Every image is decoded and every mask is checked against it. Equal content gives equal bytes, whether it
    came from a folder or an archive. A pixel of a grey mask is defect above the grey value `mask_threshold`;
    of the known datasets only magnetic-tile has grey masks. Raises `UserError` that names the file.
    """
    if name not in READERS:
        raise UserError(f"unknown dataset {name!r}; known are {', '.join(READERS)}")
    info = READERS[name].info

    def convert_and_store(raw: RawSample) -> tuple[Sample, Measured]:
        converted = convert(raw, len(info.classes))
        converted.store(converted.sample, out)
        return converted.sample, converted.measured

    with opened_source(source, out) as root:
        reader = READERS[name](find_layout(root, READERS[name].layout), mask_threshold)
        raw = sorted(reader.samples(), key=lambda sample: sample.id)
        _require_distinct(raw)
        built = list(progress(ordered_map(convert_and_store, raw), len(raw), "ingest"))
        notes = reader.notes([measured for _, measured in built])
    samples = tuple(sample for sample, _ in built)
    pixels = np.sum([measured.pixels for _, measured in built], axis=0)
    dataset = Dataset(out, make_card(info, samples, pixels, notes), samples)
    dataset.save_tables()
    return dataset


@contextmanager
def opened_source(source: Path, out: Path) -> Iterator[Path]:
    """Yield the folder with the source's files; an archive is unpacked inside `out` and removed afterwards.

    Creates the dataset's own folders in `out`. Errors name files by their paths in the source.
    """
    for folder in ("images", "masks"):
        (out / folder).mkdir()
    root = open_source(source, out / _UNPACKED)
    try:
        yield root
    except UserError as error:
        raise UserError(f"{source}: {without_root(root, str(error))}") from None
    shutil.rmtree(out / _UNPACKED, ignore_errors=True)


def without_root(root: Path, message: str) -> str:
    """`message` with paths under `root` made relative to it."""
    return message.replace(f"{root}{os.sep}", "")


def convert(raw: RawSample, classes: int, bit_depth: int = 16) -> Converted:
    """Read one sample and check its mask against the image; raises `UserError` that names the file at fault."""
    image = read_any(raw.image, bit_depth)
    height, width = image.pixels.shape[:2]
    mask = raw.read_mask(height, width)
    if mask.ids.shape != (height, width):
        shape = " x ".join(map(str, mask.ids.shape))
        raise UserError(f"{raw.image} is {height} x {width} (height x width) and its mask {shape}")
    pixels = count_classes(mask.ids, classes, raw.image)
    image_sha256, sha256 = pixel_hashes(image.pixels, mask.ids)
    sample = Sample(
        id=raw.id,
        image=f"images/{raw.id}{image.suffix}",
        mask=f"masks/{raw.id}.png",
        height=height,
        width=width,
        classes=tuple(int(label) for label in np.flatnonzero(pixels) if label),
        group=raw.group,
        sha256=sha256,
        image_sha256=image_sha256,
        published=raw.published,
    )
    png = cv2.imencode(".png", mask.ids)[1].tobytes()
    return Converted(sample, image.data, png, Measured(raw.id, pixels, mask.overlap, mask.grey), image.brightest)


def count_classes(mask: Mask, classes: int, name: Path | str) -> NDArray[np.int64]:
    """How many pixels [C] each class has; an id past the last class is a `UserError` that names `name`."""
    highest = int(mask.max())
    if highest >= classes:
        raise UserError(f"{name}: its mask holds class id {highest}, and ids go to {classes - 1}")
    # A few comparisons take a quarter of the time of bincount, which first makes 64-bit numbers of the ids.
    counts = [int(np.count_nonzero(mask == label)) for label in range(1, highest + 1)]
    counts += [0] * (classes - 1 - highest)
    return np.array([mask.size - sum(counts), *counts], np.int64)


def make_card(info: DatasetInfo, samples: Sequence[Sample], pixels: NDArray[np.int64], notes: tuple[str, ...]) -> Card:
    """The card of `samples`, whose masks hold `pixels` [C] of each class in all."""
    return Card(
        **vars(info),
        notes=notes,
        images=len(samples),
        groups=len({sample.group for sample in samples}),
        images_by_class=count_by_class(samples, info.classes),
        pixel_shares=dict(zip((kind.name for kind in info.classes), (pixels / pixels.sum()).tolist(), strict=True)),
        content_hash=content_hash(samples),
    )


def _require_distinct(samples: Sequence[RawSample]) -> None:
    if not samples:
        raise UserError("holds no images; give the folder or archive that holds the dataset")
    by_name: dict[str, RawSample] = {}
    for sample in samples:
        if not sample.id.isprintable():
            raise UserError(f"{sample.image}: the name holds what does not print; rename it")
        # Names that differ in case alone would be one file on some systems.
        if (other := by_name.setdefault(sample.id.casefold(), sample)) is not sample:
            raise UserError(f"{other.image} and {sample.image} have the same name; rename one")
