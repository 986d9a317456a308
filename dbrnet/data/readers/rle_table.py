"""Run-length encoded masks in a csv file with Severstal's columns, of its new form or its old one.

ImageId,ClassId,EncodedPixels    one row an image and class
ImageId_ClassId,EncodedPixels    the same; an empty cell says that the image has no such defect
"""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from dbrnet.data.dataset import Mask
from dbrnet.data.readers.reader import RawMask
from dbrnet.data.rle import Decoder, RleError
from dbrnet.errors import UserError

COLUMNS = ["ImageId", "ClassId", "EncodedPixels"]
OLD_COLUMNS = ["ImageId_ClassId", "EncodedPixels"]

csv.field_size_limit(1 << 24)  # a ragged mask's runs exceed the module's 128 KiB


class Row(NamedTuple):
    """The runs of one class in one image."""

    image: str  # file name
    class_id: int
    runs: str
    place: str  # for messages


class BadRow(NamedTuple):
    """A row that cannot be used."""

    image: str  # file name; empty where the row does not say
    place: str
    reason: str


def read_table(path: Path, labels: Mapping[str, int]) -> Iterator[Row | BadRow]:
    """The rows that hold a defect, and those that are wrong. `labels` are the classes' names in the file.

    Raises `UserError` where the file as a whole cannot be read.
    """
    known = sorted(labels, key=len, reverse=True)  # "deep_dent" before "dent", which is its end
    try:
        reader = csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""), strict=True)
        header = next(reader, [])
        if header not in (COLUMNS, OLD_COLUMNS):
            raise UserError(
                f"{path}: the columns are {','.join(header)[:80]!r}; they must be "
                f"{','.join(COLUMNS)} or {','.join(OLD_COLUMNS)}"
            )
        for cells in reader:
            place = f"{path} row {reader.line_num}"
            if not cells:  # an empty line
                continue
            if len(cells) != len(header):
                image = cells[0] if header == COLUMNS and cells else ""
                yield BadRow(image, place, f"has {len(cells)} cells and not {len(header)}")
                continue
            image, label = cells[:2] if header == COLUMNS else _divide(cells[0], known)
            if label not in labels:
                yield BadRow(image, place, f"class {label[:20]!r} is not one of {', '.join(labels)}")
            elif cells[-1].strip():
                yield Row(image, labels[label], cells[-1], place)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable csv file ({error})") from None


def _divide(cell: str, known: list[str]) -> tuple[str, str]:
    """Image and class of the old form's first cell; a class's name may hold underscores too."""
    for label in known:
        if cell.endswith(f"_{label}"):
            return cell[: -len(label) - 1], label
    image, _, label = cell.rpartition("_")
    return image, label


def read_mask(rows: Mapping[int, Row], height: int, width: int) -> RawMask:
    """The mask of one image from its rows by class id; the highest id wins where they overlap."""
    ids: Mask | None = None
    overlap = np.zeros((), bool)
    decoder = Decoder(height, width)
    for class_id, row in sorted(rows.items()):
        try:
            marked = decoder.decode(row.runs)
        except RleError as error:
            raise UserError(f"{row.place} ({row.image}, class {class_id}): {error}") from None
        if ids is None:
            ids = marked.T * np.uint8(class_id)  # [W, H]: column-major, as the runs are
        else:
            overlap = overlap | (marked.T & (ids > 0))
            np.putmask(ids, marked.T, class_id)
    if ids is None:
        return RawMask(np.zeros((height, width), np.uint8))
    return RawMask(cv2.transpose(ids).astype(np.uint8, copy=False), int(overlap.sum()))
