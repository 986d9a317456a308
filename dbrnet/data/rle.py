"""Run-length encoded masks as in Severstal's train.csv, and the csv tables that hold them.

A mask is "start length start length ...": starts count from 1 and column-major, down the first column, then
down the second. A table has Severstal's columns, in its new form or its old one:

ImageId,ClassId,EncodedPixels    one row an image and class
ImageId_ClassId,EncodedPixels    the same; an empty cell says that the image has no such defect
"""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Mask
from dbrnet.errors import UserError

COLUMNS = ["ImageId", "ClassId", "EncodedPixels"]
OLD_COLUMNS = ["ImageId_ClassId", "EncodedPixels"]

csv.field_size_limit(1 << 24)  # a ragged mask's runs exceed the module's 128 KiB


class RleError(UserError):
    """An encoding that is wrong; the caller adds file and row."""


class Row(NamedTuple):
    """The runs of one class in one image, or a row that cannot be used."""

    place: str  # file and row, for messages
    image: str  # file name; empty where the row does not say
    class_id: int = 0
    runs: str = ""
    fault: str = ""  # why the row cannot be used; empty: it can


def encode(mask: NDArray[np.bool_]) -> str:
    """Encode a mask [H, W] as maximal runs in ascending order; an empty mask gives an empty string."""
    pixels = np.zeros(mask.size + 2, np.int8)
    pixels[1:-1] = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels)) + 1  # start, end, start, end, ...; the ends exclusive
    edges[1::2] -= edges[::2]
    return " ".join(map(str, edges.tolist()))


def decode(runs: str, height: int, width: int) -> NDArray[np.bool_]:
    """Decode one row to a mask [H, W], column-major in memory; raises `RleError` that names the wrong run."""
    size = height * width
    pixels = np.zeros(size, bool)
    try:
        numbers = np.fromstring("" if runs.isspace() else runs, np.int64, sep=" ").tolist()
    except ValueError:
        bad = next((word for word in runs.split() if not re.fullmatch(r"[+-]?[0-9]+", word)), runs)
        raise RleError(f"{bad[:40]!r} is not a whole number") from None
    if len(numbers) % 2:
        raise RleError(f"{len(numbers)} numbers are no pairs of start and length; the last length is missing")
    previous, end = 0, 0  # start and end of the run before, from 1 and inclusive
    # A slice for each run: decoding takes 1 % of ingesting Severstal, so nothing faster is worth its code.
    for run, (start, length) in enumerate(zip(numbers[::2], numbers[1::2], strict=True), start=1):
        if not 1 <= start <= size:
            raise RleError(f"run {run} starts at {start}, and starts go from 1 to {size}")
        if not 1 <= length <= size:
            raise RleError(f"run {run} has length {length}, and lengths go from 1 to {size}")
        if start < previous:
            raise RleError(f"run {run} starts at {start}, before run {run - 1}; starts must ascend")
        if start <= end:
            raise RleError(f"run {run} starts at {start} and overlaps run {run - 1}, which ends at {end}")
        previous, end = start, start + length - 1
        if end > size:
            raise RleError(f"run {run} ends at pixel {end} of {size}")
        pixels[start - 1 : end] = True
    return pixels.reshape(width, height).T


def read_table(path: Path, labels: Mapping[str, int]) -> Iterator[Row]:
    """The rows that hold a defect, and those that are wrong. `labels` maps a class in the file to its id.

    Raises `UserError` where the file as a whole cannot be read.
    """
    longest_first = sorted(labels, key=len, reverse=True)  # "deep_dent" before "dent", which is its end
    try:
        reader = csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""), strict=True)
        header = next(reader, [])
        if header not in (COLUMNS, OLD_COLUMNS):
            given, new, old = (",".join(columns) for columns in (header, COLUMNS, OLD_COLUMNS))
            raise UserError(f"{path}: the columns are {given[:80]!r}; they must be {new} or {old}")
        for cells in filter(None, reader):  # without empty lines
            place = f"{path} row {reader.line_num}"
            if len(cells) != len(header):
                image = cells[0] if header == COLUMNS else ""
                yield Row(place, image, fault=f"has {len(cells)} cells and not {len(header)}")
                continue
            image, label = cells[:2] if header == COLUMNS else _split_cell(cells[0], longest_first)
            if label not in labels:
                yield Row(place, image, fault=f"class {label[:20]!r} is not one of {', '.join(labels)}")
            elif cells[-1].strip():
                yield Row(place, image, labels[label], cells[-1])
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable csv file ({error})") from None


def read_mask(rows: Mapping[int, Row], height: int, width: int) -> tuple[Mask, int]:
    """The mask [H, W] of one image from its rows by class id, and how many pixels several classes claim.

    The highest class id wins where they overlap. Raises `UserError` that names the row.
    """
    ids: Mask = np.zeros((width, height), np.uint8)  # [W, H]: column-major, as the runs are
    overlap = np.zeros((width, height), bool)
    for class_id, row in sorted(rows.items()):
        try:
            marked = decode(row.runs, height, width).T
        except RleError as error:
            raise UserError(f"{row.place} ({row.image}, class {class_id}): {error}") from None
        overlap |= marked & (ids > 0)
        np.putmask(ids, marked, class_id)
    return cv2.transpose(ids).astype(np.uint8, copy=False), int(overlap.sum())


def _split_cell(cell: str, labels: Sequence[str]) -> tuple[str, str]:
    """Image and class of the old form's first cell; a class's name may hold underscores too."""
    for label in labels:
        if cell.endswith(f"_{label}"):
            return cell[: -len(label) - 1], label
    image, _, label = cell.rpartition("_")
    return image, label
