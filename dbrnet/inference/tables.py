"""What is said of all images together: the summary, Severstal's submission form, and COCO's.

Each is written row by row to a hidden file beside its place and moved there when all is done, so that its
size does not matter and its presence says that the prediction is whole.
"""

import csv
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo
from dbrnet.inference.defects import Defect

SUMMARY_FILE, SUBMISSION_FILE, COCO_FILE = "summary.csv", "submission.csv", "coco.json"


@dataclass(frozen=True)
class Found:
    """What the network found in one image."""

    place: str  # path or address of the image; a video's frames have #NUMBER behind it
    name: str  # below the folder that was asked for
    output: str  # `name` without its suffix: what its mask and overlay are called
    height: int
    width: int
    shares: NDArray[np.float64]  # [C], of the pixels, by class id
    confidence: float  # mean over its pixels
    runs: Sequence[str]  # run-length encoding of each defect class, from id 1; empty unless asked for
    defects: Sequence[Defect]  # empty unless asked for


class Table(Protocol):
    """Takes images one by one; on disk under its own name only after `publish`."""

    def add(self, found: Found) -> None:
        """Write what is to be said of one image."""

    def publish(self) -> Path:
        """Bring the file to its place, whole."""

    def discard(self) -> None:
        """Leave nothing behind, unless it is published."""


class _Partial:
    """A file that has its name only when it is whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = path.with_name(f".{path.name}.partial")
        self.file = self._partial.open("w", encoding="utf-8", newline="")

    def publish(self) -> Path:
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._partial.replace(self.path)
        return self.path

    def discard(self) -> None:
        self.file.close()
        with suppress(FileNotFoundError):
            self._partial.unlink()


class Summary(_Partial):
    """One row an image: each class's share of its pixels, and the mean confidence."""

    def __init__(self, out: Path, classes: Sequence[ClassInfo]) -> None:
        super().__init__(out / SUMMARY_FILE)
        self._writer = csv.writer(self.file, lineterminator="\n")
        self._writer.writerow(["file", "output", *(info.name for info in classes), "mean_confidence"])

    def add(self, found: Found) -> None:
        """One row."""
        shares = (f"{share:.6f}" for share in found.shares)
        self._writer.writerow([found.place, found.output, *shares, f"{found.confidence:.4f}"])


class Submission(_Partial):
    """Severstal's form: a row for each image and defect class, its cell empty where there is none."""

    def __init__(self, out: Path) -> None:
        super().__init__(out / SUBMISSION_FILE)
        self._writer = csv.writer(self.file, lineterminator="\n")
        self._writer.writerow(["ImageId_ClassId", "EncodedPixels"])

    def add(self, found: Found) -> None:
        """A row for each defect class."""
        for class_id, runs in enumerate(found.runs, start=1):
            self._writer.writerow([f"{found.name}_{class_id}", runs])


class Coco(_Partial):
    """COCO's form: an annotation for each defect, its pixels as COCO's uncompressed run-length encoding."""

    def __init__(self, out: Path, classes: Sequence[ClassInfo], info: Mapping[str, Any]) -> None:
        super().__init__(out / COCO_FILE)
        categories = [
            {"id": class_id, "name": one.name, "supercategory": "defect"}
            for class_id, one in enumerate(classes)
            if class_id > 0
        ]
        self.file.write(f'{{"info": {json.dumps(info)},\n"categories": {json.dumps(categories)},\n')
        self.file.write('"annotations": [')
        self._images: list[str] = []
        self._annotations = 0

    def add(self, found: Found) -> None:
        """The image, and an annotation for each of its defects."""
        image_id = len(self._images) + 1
        image = {"id": image_id, "file_name": found.name, "height": found.height, "width": found.width}
        self._images.append(json.dumps(image))
        for defect in found.defects:
            self.file.write(",\n" if self._annotations else "\n")
            self._annotations += 1
            annotation = {
                "id": self._annotations,
                "image_id": image_id,
                "category_id": defect.class_id,
                "bbox": list(defect.bbox),
                "area": defect.area,
                "score": round(defect.score, 4),
                "iscrowd": 0,
                "segmentation": {
                    "size": [found.height, found.width],
                    "counts": coco_counts(defect.runs, found.height * found.width),
                },
            }
            self.file.write(json.dumps(annotation))

    def publish(self) -> Path:
        """Write the list of images, which comes last, and bring the file to its place."""
        self.file.write('\n],\n"images": [\n' + ",\n".join(self._images) + "\n]}\n")
        return super().publish()


def coco_counts(runs: NDArray[np.int64], pixels: int) -> list[int]:
    """COCO's counts down the columns, outside and inside in turn, from `runs` [R, 2] among `pixels`."""
    edges = np.concatenate([[0], np.stack([runs[:, 0], runs.sum(axis=1)], axis=1).ravel(), [pixels]])
    counts: list[int] = np.diff(edges).tolist()
    return counts if counts[-1] else counts[:-1]
