"""Metrics of an inspection: defects found, missed and falsely predicted, and the accuracy of their outlines.

All are whole numbers for each image, so that the figures of a set are ratios of sums.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Mask
from dbrnet.evaluation.metrics import IGNORE_INDEX
from dbrnet.records import MatchFacts

SIZES = ("small", "medium", "large")
SIZE_BOUNDS = (32**2, 96**2)  # pixels: COCO's, from which on a defect is medium, and large

Region = NDArray[np.bool_]  # [H, W]
Counts = NDArray[np.int64]

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


@dataclass(frozen=True)
class DefectCounts:
    """Counts of one image, for the D defect classes in the order of their ids from 1."""

    true: Counts  # [D, 3] defects in the ground truth, by class and by size as `SIZES`
    found: Counts  # [D, 3] those of them that were found
    predicted: Counts  # [D] predicted defects
    correct: Counts  # [D] those of them that are true
    true_boundary: Counts  # [D] pixels of the true outlines
    met_boundary: Counts  # [D] those of them near a predicted outline
    predicted_boundary: Counts  # [D] pixels of the predicted outlines
    correct_boundary: Counts  # [D] those of them near a true outline


def no_defects(classes: int) -> DefectCounts:
    """All counts at zero, for so many defect classes."""
    by_size = (np.zeros((classes, len(SIZES)), np.int64) for _ in range(2))
    return DefectCounts(*by_size, *(np.zeros(classes, np.int64) for _ in range(6)))


def count_defects(prediction: Mask, truth: Mask, classes: int, rules: MatchFacts) -> DefectCounts:
    """Count one image's defects and outlines; class ids [H, W] below `classes`, in `truth` also 255 (ignored).

    A defect is an 8-connected region of one class. A true defect is found where at least `rules.min_overlap` of its
    pixels are predicted as its class. A predicted defect is correct where at least that share of its pixels is of its
    class in the truth. Ignored pixels do not count, and a predicted defect wholly on them is none.

    An outline is the pixels of a class with one of their four neighbours outside it (Csurka et al. 2013, "What is a
    good evaluation measure for semantic segmentation?", compare such outlines by F1). The image's border is no
    outline: a defect that it cuts off ends there for the camera, not on the steel. A pixel is near an outline within
    `rules.boundary_tolerance`, Euclidean. Outlines that close to ignored pixels do not count, because their
    counterparts may lie there.
    """
    counts = no_defects(classes - 1)
    ignored = truth == IGNORE_INDEX
    radius = rules.boundary_tolerance
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    disc = (rows**2 + columns**2 <= radius**2).astype(np.uint8)
    beside_ignored = _dilated(ignored, disc)
    present = np.any([np.bincount(mask.ravel(), minlength=256) for mask in (prediction, truth)], axis=0)
    for id_ in np.flatnonzero(present).tolist():
        if id_ in (0, IGNORE_INDEX):
            continue
        true, predicted = truth == id_, prediction == id_
        areas, shares = _defects(true, counted=true, agreed=predicted)
        sizes, found = np.searchsorted(SIZE_BOUNDS, areas, side="right"), shares >= rules.min_overlap
        counts.true[id_ - 1] = np.bincount(sizes, minlength=3)
        counts.found[id_ - 1] = np.bincount(sizes[found], minlength=3)
        _, shares = _defects(predicted, counted=~ignored, agreed=true)
        counts.predicted[id_ - 1] = len(shares)
        counts.correct[id_ - 1] = (shares >= rules.min_overlap).sum()
        true_outline, predicted_outline = _outline(true, ignored), _outline(predicted)
        counted = true_outline & ~beside_ignored
        counts.true_boundary[id_ - 1] = counted.sum()
        counts.met_boundary[id_ - 1] = (counted & _dilated(predicted_outline, disc)).sum()
        counted = predicted_outline & ~beside_ignored
        counts.predicted_boundary[id_ - 1] = counted.sum()
        counts.correct_boundary[id_ - 1] = (counted & _dilated(true_outline, disc)).sum()
    return counts


def _defects(region: Region, counted: Region, agreed: Region) -> tuple[Counts, NDArray[np.float64]]:
    """For each defect of `region` with counted pixels: their number, and the share of them that is `agreed`."""
    number, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    areas = np.bincount(labels[region & counted], minlength=number)[1:]
    hits = np.bincount(labels[region & counted & agreed], minlength=number)[1:]
    counts = areas > 0
    return areas[counts], hits[counts] / areas[counts]


def _outline(region: Region, unknown: Region | None = None) -> Region:
    """The pixels of `region` beside a pixel that is neither its own nor `unknown`."""
    inside = region if unknown is None else region | unknown
    return region & (cv2.erode(inside.astype(np.uint8), CROSS) == 0)  # what lies outside erodes nothing


def _dilated(region: Region, disc: NDArray[np.uint8]) -> Region:
    return cv2.dilate(region.astype(np.uint8), disc) > 0
