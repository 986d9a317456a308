"""Severstal: flat steel strip, train_images/ and run-length encoded masks in train.csv."""

import csv
import io
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dbrnet.data.dataset import About, ClassInfo
from dbrnet.data.readers.reader import Measured, RawMask, RawSample, Reader, image_files
from dbrnet.data.rle import Decoder, RleError
from dbrnet.errors import UserError

TABLE = "train.csv"
COLUMNS = ["ImageId", "ClassId", "EncodedPixels"]
OLD_COLUMNS = ["ImageId_ClassId", "EncodedPixels"]

csv.field_size_limit(1 << 24)  # a ragged mask's runs exceed the module's 128 KiB


class Severstal(Reader):
    """The competition's layout, the whole set (12,568 pictures) or a part of it."""

    about = About(
        name="severstal",
        title="Severstal, flat steel strip",
        classes=(
            ClassInfo("background", (0, 0, 0)),
            ClassInfo("class-1", (230, 159, 0)),
            ClassInfo("class-2", (213, 94, 0)),
            ClassInfo("class-3", (86, 180, 233)),
            ClassInfo("class-4", (0, 158, 115)),
        ),
        homepage="https://www.kaggle.com/c/severstal-steel-defect-detection",
        citation="PAO Severstal: Severstal: Steel Defect Detection, Kaggle, 2019",
        licence="owned by PAO Severstal; may be used in research without restrictions except by law, as "
        "quoted from the competition's discussion 118403",
        group_rule="",
        leak_note="near-copies have been reported in the whole set, some with differing masks, and are not "
        "grouped",
    )
    layout = (TABLE, "train_images")

    def group(self, stem: str) -> str:
        """The group of a picture, by its file's name: here each its own."""
        return stem

    def samples(self, folder: Path, mask_threshold: int) -> list[RawSample]:
        """All of train_images/; a picture without a row is defect-free. test_images/ has no labels."""
        images = image_files(folder / "train_images")
        rows_of: dict[str, dict[int, _Row]] = {image.name: {} for image in images}
        for row in _read_table(folder / TABLE, len(self.about.classes) - 1):
            if row.image not in rows_of:
                raise UserError(
                    f"{row.place}: there is no train_images/{row.image}; add it or remove the row"
                )
            if row.class_id in rows_of[row.image]:
                raise UserError(f"{row.place}: class {row.class_id} of {row.image} has a row already")
            rows_of[row.image][row.class_id] = row
        return [
            RawSample(image.stem, image, self.group(image.stem), partial(_read_mask, rows_of[image.name]))
            for image in images
        ]

    def notes(self, measured: Sequence[Measured], mask_threshold: int) -> tuple[str, ...]:
        """Who wins where classes overlap, and how often they do."""
        overlaps = [one.overlap for one in measured if one.overlap]
        return (
            f"where classes overlap the highest class id wins: {sum(overlaps)} pixels in "
            f"{len(overlaps)} pictures",
        )


class _Row(NamedTuple):
    image: str  # file name
    class_id: int
    runs: str
    place: str  # for messages


def _read_table(path: Path, classes: int) -> Iterator[_Row]:
    """The rows that hold a defect, of either form of the file."""
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
            if len(cells) != len(header):
                raise UserError(f"{place}: has {len(cells)} cells and not {len(header)}")
            image, label = cells[:2] if header == COLUMNS else cells[0].rpartition("_")[::2]
            if not label.isdecimal() or not 1 <= int(label) <= classes:
                raise UserError(f"{place}: class {label[:20]!r} is not one of 1 to {classes}")
            if cells[-1].strip():
                yield _Row(image, int(label), cells[-1], place)
    except (csv.Error, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not a readable csv file ({error})") from None


def _read_mask(rows: dict[int, _Row], height: int, width: int) -> RawMask:
    ids = np.zeros((width, height), np.uint8).T  # column-major, as the runs are
    overlap = np.zeros_like(ids, bool)
    decoder = Decoder(height, width)
    for class_id, row in sorted(rows.items()):
        try:
            marked = decoder.decode(row.runs)
        except RleError as error:
            raise UserError(f"{row.place} ({row.image}, class {class_id}): {error}") from None
        overlap |= marked & (ids > 0)
        np.putmask(ids, marked, class_id)
    return RawMask(np.ascontiguousarray(ids), int(overlap.sum()))
