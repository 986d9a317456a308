"""Turning a source, a folder or an archive in a dataset's own layout, into the canonical dataset."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from dbrnet.data.convert import convert, describe, ordered_map
from dbrnet.data.dataset import Dataset, Sample
from dbrnet.data.image_decoding import read_as_it_is
from dbrnet.data.readers import READERS
from dbrnet.data.readers.reader import Measured, RawSample, find_layout
from dbrnet.errors import UserError
from dbrnet.progress import Progress
from dbrnet.storage.archive import open_source

_UNPACKED = ".unpacked"


def build_dataset(
    name: str, source: Path, out: Path, *, mask_threshold: int = 127, progress: Progress | None = None
) -> Dataset:
    """Read the dataset `name` from `source` and write it in canonical form into the empty folder `out`.

    Every image is decoded and every mask is checked against it. Equal content gives equal bytes,
    whether it came from a folder or an archive. `mask_threshold` is the grey value above which a pixel
    of a grey mask is defect (magnetic-tile alone has such masks). Raises `UserError` that names the file.
    """
    if name not in READERS:
        raise UserError(f"unknown dataset {name!r}; known are {', '.join(READERS)}")
    reader = READERS[name]
    classes = len(reader.about.classes)
    with opened(source, out) as root:
        folder = find_layout(root, reader.layout)
        raw = sorted(reader.samples(folder, mask_threshold), key=lambda sample: sample.id)
        _require_distinct(raw)
        results = ordered_map(partial(_build, out=out, classes=classes), raw)
        built = list(progress(results, len(raw), "ingest") if progress else results)
        measured = [one for _, one in built]
        notes = reader.notes(folder, measured, mask_threshold)
    samples = tuple(sample for sample, _ in built)
    pixels = np.sum([one.pixels for one in measured], axis=0)
    dataset = Dataset(out, describe(reader.about, samples, pixels, notes), samples)
    dataset.save_tables()
    return dataset


@contextmanager
def opened(source: Path, out: Path) -> Iterator[Path]:
    """The folder with the source's files, unpacked inside `out` for as long as the block runs.

    Makes the dataset's own folders too. Errors name files as the user knows them, not as unpacked.
    """
    for folder in ("images", "masks"):
        (out / folder).mkdir()
    root = open_source(source, out / _UNPACKED)
    try:
        yield root
    except UserError as error:
        raise UserError(f"{source}: {inside(root, str(error))}") from None
    shutil.rmtree(out / _UNPACKED, ignore_errors=True)


def inside(root: Path, message: str) -> str:
    """`message` with the paths under `root` cut to what the user knows."""
    return message.replace(f"{root}{os.sep}", "")


def _build(raw: RawSample, out: Path, classes: int) -> tuple[Sample, Measured]:
    converted = convert(raw, read_as_it_is, classes)
    sample = converted.store(raw.id, out)
    return sample, Measured(sample.id, converted.pixels, converted.overlap, converted.grey)


def _require_distinct(samples: Sequence[RawSample]) -> None:
    if not samples:
        raise UserError("holds no images; give the folder or archive that holds the dataset")
    named: dict[str, RawSample] = {}
    for sample in samples:
        if not sample.id.isprintable():
            raise UserError(f"{sample.image}: the name holds what does not print; rename it")
        if (previous := named.setdefault(sample.id.casefold(), sample)) is not sample:  # one file on some systems
            raise UserError(f"{previous.image} and {sample.image} have the same name; rename one")
