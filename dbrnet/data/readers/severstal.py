"""Severstal: flat steel strip, train_images/ and run-length encoded masks in train.csv."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from dbrnet.data.dataset import About, ClassInfo
from dbrnet.data.readers.reader import Measured, RawSample, Reader, image_files
from dbrnet.data.readers.rle_table import BadRow, Row, read_mask, read_table
from dbrnet.errors import UserError

TABLE = "train.csv"


class Severstal(Reader):
    """The competition's layout, the whole set (12,568 images) or a part of it."""

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
        leak_note="near-copies have been reported in the whole set, some with differing masks",
    )
    layout = (TABLE, "train_images")
    whole_tables: ClassVar[Mapping[str, str]] = {  # git blob -> which of the whole set's two files it is
        "93c7bb63fce4b5be5c91c9fcb4462ccdf953658f": "new form",
        "78e36fc41897658d0a7067886102266c82ed65f3": "old form",
    }

    def group(self, stem: str) -> str:
        """The group of an image, by its file's name: here each its own."""
        return stem

    def samples(self, folder: Path, mask_threshold: int) -> list[RawSample]:
        """All of train_images/; an image without a row is defect-free. test_images/ has no labels."""
        images = image_files(folder / "train_images")
        rows_of: dict[str, dict[int, Row]] = {image.name: {} for image in images}
        labels = {str(class_id): class_id for class_id in range(1, len(self.about.classes))}
        for row in read_table(folder / TABLE, labels):
            if isinstance(row, BadRow):
                raise UserError(f"{row.place}: {row.reason}")
            if row.image not in rows_of:
                raise UserError(f"{row.place}: there is no train_images/{row.image[:200]}; add it or remove the row")
            if row.class_id in rows_of[row.image]:
                raise UserError(f"{row.place}: class {row.class_id} of {row.image} has a row already")
            rows_of[row.image][row.class_id] = row
        return [
            RawSample(image.stem, image, self.group(image.stem), partial(read_mask, rows_of[image.name]))
            for image in images
        ]

    def notes(self, folder: Path, measured: Sequence[Measured], mask_threshold: int) -> tuple[str, ...]:
        """Who wins where classes overlap, how often they do, and whose table it is."""
        overlaps = [one.overlap for one in measured if one.overlap]
        overlap = f"where classes overlap the highest class id wins: {sum(overlaps)} pixels in {len(overlaps)} images"
        return (overlap, self._table_note(folder / TABLE)) if self.whole_tables else (overlap,)

    def _table_note(self, table: Path) -> str:
        if form := self.whole_tables.get(git_blob(table.read_bytes())):
            return f"{TABLE} is the whole set's ({form})"
        return f"{TABLE} is not one of the whole set's two known files: a part or a changed copy"


def git_blob(content: bytes) -> str:
    """The name under which git keeps a file of this content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()
