"""Turning a source, a folder or an archive in a dataset's own layout, into the canonical dataset."""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dbrnet.data.archive import open_source
from dbrnet.data.dataset import Card, Dataset, Image, Mask, Sample, content_hash, decode_image
from dbrnet.data.readers import READERS
from dbrnet.data.readers.reader import Measured, RawSample, Reader, find_layout, read_whole
from dbrnet.errors import UserError

Progress = Callable[[Iterable[Any], int, str], Iterable[Any]]  # items, how many, what for

_UNPACKED = ".unpacked"


def build_dataset(
    name: str, source: Path, out: Path, *, mask_threshold: int = 127, progress: Progress | None = None
) -> Dataset:
    """Read the dataset `name` from `source` and write it in canonical form into the empty folder `out`.

    Every picture is decoded and every mask is checked against it. Equal content gives equal bytes,
    whether it came from a folder or an archive. `mask_threshold` is the grey value above which a pixel
    of a grey mask is defect (magnetic-tile alone has such masks). Raises `UserError` that names the file.
    """
    if name not in READERS:
        raise UserError(f"unknown dataset {name!r}; known are {', '.join(READERS)}")
    reader = READERS[name]
    root = open_source(source, out / _UNPACKED)
    try:
        folder = find_layout(root, reader.layout)
        raw = sorted(reader.samples(folder, mask_threshold), key=lambda sample: sample.id)
        _require_distinct(raw)
        built = _convert_all(raw, out, len(reader.about.classes), progress)
    except UserError as error:  # name files as the user knows them, not where they were unpacked
        raise UserError(f"{source}: {str(error).replace(f'{root}{os.sep}', '')}") from None
    shutil.rmtree(out / _UNPACKED, ignore_errors=True)
    samples = tuple(sample for sample, _ in built)
    card = _describe(reader, samples, [measured for _, measured in built], mask_threshold)
    dataset = Dataset(out, card, samples)
    dataset.save_tables()
    return dataset


def _require_distinct(samples: Sequence[RawSample]) -> None:
    if not samples:
        raise UserError("holds no pictures; give the folder or archive that holds the dataset")
    for former, sample in pairwise(samples):
        if former.id == sample.id:
            raise UserError(f"{former.image} and {sample.image} have the same name; rename one")


def _convert_all(
    samples: Sequence[RawSample], out: Path, classes: int, progress: Progress | None
) -> list[tuple[Sample, Measured]]:
    for folder in ("images", "masks"):
        (out / folder).mkdir()
    with ThreadPoolExecutor(min(os.cpu_count() or 1, 8)) as pool:  # decoding and hashing free the GIL
        results = pool.map(partial(_convert, out=out, classes=classes), samples)
        return list(progress(results, len(samples), "ingest") if progress else results)


def _convert(raw: RawSample, out: Path, classes: int) -> tuple[Sample, Measured]:
    """Check one sample, write its two files, and return its row and what was counted in it."""
    data = read_whole(raw.image)
    image = decode_image(data, raw.image)
    height, width = image.shape[:2]
    mask = raw.read_mask(height, width)
    if mask.ids.shape != (height, width):
        found = " x ".join(map(str, mask.ids.shape))
        raise UserError(f"{raw.image} is {height} x {width} (height x width) and its mask {found}")
    pixels = np.bincount(mask.ids.ravel(), minlength=classes)
    if len(pixels) > classes:
        raise UserError(
            f"{raw.image}: its mask holds class id {len(pixels) - 1}, and ids go to {classes - 1}"
        )
    sample = Sample(
        id=raw.id,
        image=f"images/{raw.id}{raw.image.suffix.lower()}",
        mask=f"masks/{raw.id}.png",
        height=height,
        width=width,
        classes=tuple(int(label) for label in np.flatnonzero(pixels) if label),
        group=raw.group,
        sha256=_hash_pixels(image, mask.ids),
    )
    (out / sample.image).write_bytes(data)
    (out / sample.mask).write_bytes(cv2.imencode(".png", mask.ids)[1].tobytes())
    return sample, Measured(raw.id, pixels, mask.overlap)


def _hash_pixels(image: Image, mask: Mask) -> str:
    """Over what is seen, not how it is stored: a picture saved again without loss keeps its hash."""
    digest = hashlib.sha256(f"{image.shape[0]} {image.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(image).data)
    digest.update(np.ascontiguousarray(mask).data)
    return digest.hexdigest()


def _describe(
    reader: Reader, samples: tuple[Sample, ...], measured: Sequence[Measured], mask_threshold: int
) -> Card:
    names = [info.name for info in reader.about.classes]
    pixels = np.sum([one.pixels for one in measured], axis=0)
    holding = {
        name: sum(label in (sample.classes or (0,)) for sample in samples) for label, name in enumerate(names)
    }
    return Card(
        **vars(reader.about),
        notes=reader.notes(measured, mask_threshold),
        images=len(samples),
        groups=len({sample.group for sample in samples}),
        images_by_class=holding,
        pixel_shares=dict(zip(names, (pixels / pixels.sum()).tolist(), strict=True)),
        content_hash=content_hash(samples),
    )
