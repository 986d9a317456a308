"""The defects of each image, and the tables of all images: the summary, Severstal's submission form, and COCO's.

Each table is written row by row to a hidden file, and gets its name when all images are done. Its size does not
matter then, and its presence says that the prediction is complete.
"""

import csv
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo, Mask

SUMMARY_FILE, SUBMISSION_FILE, COCO_FILE = "summary.csv", "submission.csv", "coco.json"


@dataclass(frozen=True)
class Defect:
    """Pixels of one class that touch, also at corners (8-connected)."""

    class_id: int
    class_name: str
    bbox: tuple[int, int, int, int]  # left, top, width, height, in pixels
    area: int  # pixels
    score: float  # mean confidence of its pixels, 0 to 1
    runs: NDArray[np.int64]  # [R, 2], start and length, counted from 0 down the first column, then the next

    def to_dict(self) -> dict[str, Any]:
        """For JSON, with the score rounded to four digits and without the runs."""
        plain = {"class_id": self.class_id, "class_name": self.class_name, "bbox": list(self.bbox), "area": self.area}
        return plain | {"score": round(self.score, 4)}


def find_defects(mask: Mask, confidence: NDArray[np.float32], classes: Sequence[ClassInfo]) -> list[Defect]:
    """The defects of class ids [H, W] with their confidences [H, W], the largest first.

    Those of equal area are in the order of their class, then from the left, then from the top.
    """
    defects = []
    for class_id in np.unique(mask).tolist():
        if class_id == 0:
            continue
        region = (mask == class_id).astype(np.uint8)
        count, components, stats, _ = cv2.connectedComponentsWithStats(region, connectivity=8)
        labels = components.astype(np.int32, copy=False)
        sums = np.bincount(labels.ravel(), weights=confidence.ravel(), minlength=count)
        runs = _runs_by_label(labels, count)
        for label in range(1, count):  # 0 is all the rest
            left, top, width, height, area = stats[label].tolist()
            bbox, score = (left, top, width, height), float(sums[label] / area)
            defects.append(Defect(class_id, classes[class_id].name, bbox, area, score, runs[label]))
    return sorted(defects, key=lambda defect: (-defect.area, defect.class_id, defect.bbox))


def _runs_by_label(labels: NDArray[np.int32], count: int) -> list[NDArray[np.int64]]:
    """Start and length of each label's runs, column-major, in one pass over the image."""
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=-1))
    runs = np.stack([starts, np.diff(starts, append=flat.size)], axis=1)
    owners = flat[starts]
    order = np.argsort(owners, kind="stable")
    return np.split(runs[order], np.searchsorted(owners[order], np.arange(1, count)))


@dataclass(frozen=True)
class ImageRow:
    """What the tables hold of one image."""

    place: str  # path or address of the image; a video's frames have #NUMBER behind it
    name: str  # below the folder that the user named
    output: str  # `name` without its suffix: the name of its mask and overlay
    height: int
    width: int
    shares: NDArray[np.float64]  # [C], of the pixels, by class id
    confidence: float  # mean over its pixels
    runs: Sequence[str]  # run-length encoding of each defect class, from id 1; empty unless the format needs it
    defects: Sequence[Defect]  # empty unless the format needs them


class Table(ABC):
    """A table that takes images one by one. Its file has its name only after `publish`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._partial = path.with_name(f".{path.name}.partial")
        self.file = self._partial.open("w", encoding="utf-8", newline="")

    @abstractmethod
    def add(self, row: ImageRow) -> None:
        """Write the rows of one image."""

    def publish(self) -> Path:
        """Give the complete file its name."""
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self._partial.replace(self.path)
        return self.path

    def discard(self) -> None:
        """Remove the file, unless it is published."""
        self.file.close()
        self._partial.unlink(missing_ok=True)


class Summary(Table):
    """One row per image: each class's share of its pixels, and the mean confidence."""

    def __init__(self, out: Path, classes: Sequence[ClassInfo]) -> None:
        super().__init__(out / SUMMARY_FILE)
        self._writer = csv.writer(self.file, lineterminator="\n")
        self._writer.writerow(["file", "output", *(info.name for info in classes), "mean_confidence"])

    def add(self, row: ImageRow) -> None:
        """One row."""
        shares = (f"{share:.6f}" for share in row.shares)
        self._writer.writerow([row.place, row.output, *shares, f"{row.confidence:.4f}"])


class Submission(Table):
    """Severstal's form: a row for each image and defect class, its cell empty where there is none."""

    def __init__(self, out: Path) -> None:
        super().__init__(out / SUBMISSION_FILE)
        self._writer = csv.writer(self.file, lineterminator="\n")
        self._writer.writerow(["ImageId_ClassId", "EncodedPixels"])

    def add(self, row: ImageRow) -> None:
        """A row for each defect class."""
        for class_id, runs in enumerate(row.runs, start=1):
            self._writer.writerow([f"{row.name}_{class_id}", runs])


class Coco(Table):
    """COCO's form: an annotation for each defect, its pixels as COCO's uncompressed run-length encoding."""

    def __init__(self, out: Path, classes: Sequence[ClassInfo], about: Mapping[str, Any]) -> None:
        super().__init__(out / COCO_FILE)
        categories = [
            {"id": class_id, "name": info.name, "supercategory": "defect"}
            for class_id, info in enumerate(classes[1:], start=1)
        ]
        self.file.write(f'{{"info": {json.dumps(about)},\n"categories": {json.dumps(categories)},\n"annotations": [')
        self._images: list[str] = []
        self._annotations = 0

    def add(self, row: ImageRow) -> None:
        """The image, and an annotation for each of its defects."""
        image_id, pixels = len(self._images) + 1, row.height * row.width
        image = {"id": image_id, "file_name": row.name, "height": row.height, "width": row.width}
        self._images.append(json.dumps(image))
        for defect in row.defects:
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
                "segmentation": {"size": [row.height, row.width], "counts": coco_counts(defect.runs, pixels)},
            }
            self.file.write(json.dumps(annotation))

    def publish(self) -> Path:
        """Write the list of images, which comes last, and give the file its name."""
        self.file.write('\n],\n"images": [\n' + ",\n".join(self._images) + "\n]}\n")
        return super().publish()


def coco_counts(runs: NDArray[np.int64], pixels: int) -> list[int]:
    """COCO's counts down the columns, of pixels outside and inside in turn, from `runs` [R, 2] of `pixels`."""
    edges = np.concatenate([[0], np.stack([runs[:, 0], runs.sum(axis=1)], axis=1).ravel(), [pixels]])
    counts: list[int] = np.diff(edges).tolist()
    return counts if counts[-1] else counts[:-1]
