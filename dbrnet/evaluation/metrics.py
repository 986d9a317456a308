"""Scores of a segmentation, all from one confusion matrix over a whole set of images.

A class that is absent, with no pixel in the ground truth and none in the predictions of the whole set, has no IoU. It
is listed under `absent` and left out of every mean. A class that is present but never predicted, or predicted but
never present, has IoU 0 and counts. (The released DBRNet code counts absent classes as 0, which lowers its mean on
sets that lack a class.)
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Self

import numpy as np
from numpy.typing import NDArray

from dbrnet import records

IGNORE_INDEX = 255  # pixels with this value in the ground truth are not counted

Confusion = NDArray[np.int64]  # [C, C]: rows are the ground truth, columns the predictions


def confusion_matrix(prediction: NDArray[np.uint8], target: NDArray[np.uint8], classes: int) -> Confusion:
    """Count pixels by true class (row) and predicted class (column): int64 [classes, classes].

    `prediction` and `target` hold class ids in arrays of one shape, whatever it is ([H, W], [N, H, W]).
    Pixels whose target is `IGNORE_INDEX` are left out. The matrices of disjoint images add up.
    Raises `ValueError` for unequal shapes and for ids outside 0..classes-1.
    """
    if prediction.shape != target.shape:
        raise ValueError(f"the prediction has shape {prediction.shape}, the ground truth {target.shape}")
    counted = target != IGNORE_INDEX
    for name, ids in (("prediction", prediction), ("ground truth", target)):
        highest = int(ids.max(initial=0, where=counted))
        if highest >= classes:
            raise ValueError(f"the {name} holds class id {highest}, and the classes are 0 to {classes - 1}")
    # Not torchmetrics', which the tests compare with: it takes four times as long, and seconds to import.
    pairs = classes * target[counted].astype(np.int64) + prediction[counted]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


class Scores(records.Scores):
    """The record's scores, made from a confusion matrix."""

    @classmethod
    def from_confusion(cls, confusion: Confusion, names: Sequence[str]) -> Self:
        """Derive the scores from counts [C, C] (rows: ground truth) and the C class names in id order.

        Raises `ValueError` when the matrix counts no pixel at all.
        """
        if confusion.shape != (len(names), len(names)):
            raise ValueError(f"{len(names)} class names for a confusion matrix of shape {confusion.shape}")
        total = int(confusion.sum())
        if total == 0:
            raise ValueError("no labelled pixel to score")
        hits, true, predicted = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
        iou = _shares(hits, true + predicted - hits)
        known = [value for value in iou if value is not None]
        defects = [value for value in iou[1:] if value is not None]
        return cls(
            miou=fmean(known),
            miou_defects=fmean(defects) if defects else None,
            pixel_accuracy=int(hits.sum()) / total,
            iou=dict(zip(names, iou, strict=True)),
            f1=dict(zip(names, _shares(2 * hits, true + predicted), strict=True)),
            precision=dict(zip(names, _shares(hits, predicted), strict=True)),
            recall=dict(zip(names, _shares(hits, true), strict=True)),
            absent=tuple(name for name, value in zip(names, iou, strict=True) if value is None),
        )


def _shares(part: Confusion, whole: Confusion) -> list[float | None]:
    """Elementwise part / whole, None where the whole is 0."""
    return [p / w if w else None for p, w in zip(part.tolist(), whole.tolist(), strict=True)]
