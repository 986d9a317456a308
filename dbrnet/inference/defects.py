"""From a mask to its defects: what is connected, how large it is, where, and how sure the network was."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo, Mask


@dataclass(frozen=True)
class Defect:
    """Pixels of one class that hang together, also by their corners."""

    class_id: int
    class_name: str
    bbox: tuple[int, int, int, int]  # left, top, width, height, in pixels
    area: int  # pixels
    score: float  # mean confidence of its pixels, 0 to 1
    runs: NDArray[np.int64]  # [R, 2], start and length, counted from 0 down the first column, then the next

    def to_dict(self) -> dict[str, Any]:
        """What JSON shows of it; the score is rounded to four digits."""
        return {
            "class_id": self.class_id,
            "class_name": self.class_name,
            "bbox": list(self.bbox),
            "area": self.area,
            "score": round(self.score, 4),
        }


def find_defects(mask: Mask, confidence: NDArray[np.float32], classes: Sequence[ClassInfo]) -> list[Defect]:
    """The defects of class ids [H, W] with their confidences [H, W], the largest first.

    Those of equal area are in the order of their class, then from the left, then from the top.
    """
    found = [
        defect
        for class_id in np.unique(mask).tolist()
        if class_id > 0
        for defect in _of_class(class_id, classes[class_id].name, mask == class_id, confidence)
    ]
    return sorted(found, key=lambda one: (-one.area, one.class_id, one.bbox))


def _of_class(class_id: int, name: str, marked: NDArray[np.bool_], confidence: NDArray[np.float32]) -> list[Defect]:
    count, found, stats, _ = cv2.connectedComponentsWithStats(marked.astype(np.uint8), connectivity=8)
    labels = found.astype(np.int32, copy=False)
    sums = np.bincount(labels.ravel(), weights=confidence.ravel(), minlength=count)
    runs = _runs_by_label(labels, count)
    defects = []
    for label in range(1, count):  # 0 is all the rest
        left, top, width, height, area = stats[label].tolist()
        score = float(sums[label] / area)
        defects.append(Defect(class_id, name, (left, top, width, height), area, score, runs[label]))
    return defects


def _runs_by_label(labels: NDArray[np.int32], count: int) -> list[NDArray[np.int64]]:
    """Start and length of each label's runs, column-major, in one pass over the image."""
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=-1))
    runs = np.stack([starts, np.diff(starts, append=flat.size)], axis=1)
    of = flat[starts]
    order = np.argsort(of, kind="stable")
    return np.split(runs[order], np.searchsorted(of[order], np.arange(1, count)))
