"""What an inspector counts: defects found, missed and invented, and how well their outlines are met.

Everything is a whole number for each image, so that the figures of a set are ratios of sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Mask
from dbrnet.evaluation.metrics import IGNORE_INDEX

SIZES = ("small", "medium", "large")
SIZE_BOUNDS = (32**2, 96**2)  # pixels: COCO's, from which on a defect is medium, and large

Region = NDArray[np.bool_]  # [H, W]
Counts = NDArray[np.int64]

CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))


@dataclass(frozen=True)
class MatchRules:
    """When a defect counts as found, and an outline as met."""

    min_overlap: float = 0.5  # the share of a defect's pixels on which truth and prediction agree, above 0
    boundary_tolerance: int = 2  # pixels


DEFAULT_RULES = MatchRules()


@dataclass(frozen=True)
class DefectCounts:
    """Counts of one image; D are the defect classes, in the order of their ids from 1."""

    true: Counts  # [D, 3] defects in the ground truth, by class and by size as `SIZES`
    found: Counts  # [D, 3] those of them that were found
    predicted: Counts  # [D] predicted defects
    correct: Counts  # [D] those of them that are there
    true_boundary: Counts  # [D] pixels of the true outlines
    met_boundary: Counts  # [D] those of them that a predicted outline comes near
    predicted_boundary: Counts  # [D] pixels of the predicted outlines
    correct_boundary: Counts  # [D] those of them that come near a true outline


def no_defects(classes: int) -> DefectCounts:
    """Nothing counted yet, of so many classes of defects."""
    by_size = (np.zeros((classes, len(SIZES)), np.int64) for _ in range(2))
    return DefectCounts(*by_size, *(np.zeros(classes, np.int64) for _ in range(6)))


def count_defects(prediction: Mask, truth: Mask, classes: int, rules: MatchRules) -> DefectCounts:
    """Count one image's defects and outlines; class ids [H, W] below `classes`, in `truth` also 255.

    A defect is what hangs together, also by its corners, of one class. A true one is found where at least
    `rules.min_overlap` of its pixels are predicted as its class; a predicted one is correct where at least
    that share of its pixels is truth of its class. Pixels that the truth ignores (255) do not count, and a
    predicted defect wholly on them is none.

    An outline is the pixels of a class with one of their four neighbours outside it (Csurka et al. 2013,
    "What is a good evaluation measure for semantic segmentation?", compare such outlines by F1). The
    image's border is no outline: a defect cut off by it ends there for the camera, not on the steel. A
    pixel comes near an outline within `rules.boundary_tolerance`, Euclidean. Outlines that close to ignored
    pixels do not count, as their counterparts may lie there.
    """
    counts = no_defects(classes - 1)
    ignored = truth == IGNORE_INDEX
    disc = _disc(rules.boundary_tolerance)
    beside_ignored = _dilated(ignored, disc)
    for id_ in _present(prediction, truth):
        true, predicted = truth == id_, prediction == id_
        areas, shares = _defects(true, counted=true, agreed=predicted)
        sizes, found = np.searchsorted(SIZE_BOUNDS, areas, side="right"), shares >= rules.min_overlap
        counts.true[id_ - 1] = np.bincount(sizes, minlength=3)
        counts.found[id_ - 1] = np.bincount(sizes[found], minlength=3)
        _, shares = _defects(predicted, counted=~ignored, agreed=true)
        counts.predicted[id_ - 1] = len(shares)
        counts.correct[id_ - 1] = (shares >= rules.min_overlap).sum()
        outline, answer = _outline(true, ignored), _outline(predicted)
        asked, answered = outline & ~beside_ignored, answer & ~beside_ignored
        counts.true_boundary[id_ - 1] = asked.sum()
        counts.met_boundary[id_ - 1] = (asked & _dilated(answer, disc)).sum()
        counts.predicted_boundary[id_ - 1] = answered.sum()
        counts.correct_boundary[id_ - 1] = (answered & _dilated(outline, disc)).sum()
    return counts


def _present(*masks: Mask) -> Sequence[int]:
    """The ids of defects in any of the masks."""
    seen = np.any([np.bincount(mask.ravel(), minlength=256) for mask in masks], axis=0)
    return [id_ for id_ in np.flatnonzero(seen).tolist() if id_ not in (0, IGNORE_INDEX)]


def _defects(region: Region, counted: Region, agreed: Region) -> tuple[Counts, NDArray[np.float64]]:
    """Of each defect of `region` that counts at all: its counted pixels, and the share that is `agreed`."""
    number, labels = cv2.connectedComponents(region.astype(np.uint8), connectivity=8)
    areas = np.bincount(labels[region & counted], minlength=number)[1:]
    hits = np.bincount(labels[region & counted & agreed], minlength=number)[1:]
    there = areas > 0
    return areas[there], hits[there] / areas[there]


def _outline(region: Region, unknown: Region | None = None) -> Region:
    """The pixels of `region` beside a pixel that is neither its own nor `unknown`."""
    inside = region if unknown is None else region | unknown
    return region & (cv2.erode(inside.astype(np.uint8), CROSS) == 0)  # what lies outside erodes nothing


def _dilated(region: Region, disc: NDArray[np.uint8]) -> Region:
    return cv2.dilate(region.astype(np.uint8), disc) > 0


def _disc(radius: int) -> NDArray[np.uint8]:
    """The offsets within `radius` pixels, Euclidean."""
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return (rows**2 + columns**2 <= radius**2).astype(np.uint8)
