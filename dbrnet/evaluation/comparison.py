"""Candidate and champion on the same images: the differences of their figures, and the images that show them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbrnet.evaluation.bootstrap import estimate
from dbrnet.evaluation.figures import figures, group_counts, unit_of
from dbrnet.evaluation.predictions import Evaluation, ImageResult
from dbrnet.records import Estimate, Unit

SHOWN = 12  # images, of as many groups
DIFFERENCE = "difference of "  # before a figure's name


@dataclass(frozen=True)
class Comparison:
    """The champion's figures, and the candidate's figures minus those, by name."""

    figures: dict[str, Estimate]
    difference: dict[str, Estimate]


def compare(candidate: Evaluation, champion: Evaluation, confidence: float) -> Comparison:
    """Compare two models that were evaluated on the same images.

    Both are scored on the same draws of groups, so that the difficulty of an image cancels out of the difference.
    Raises ValueError where the images or classes are not the same.
    """
    _require_same_images(candidate, champion)
    classes, counts = candidate.classes, group_counts(candidate)
    own = counts.shape[1]

    def both(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        first, second = figures(sums[:, :own], classes), figures(sums[:, own:], classes)
        return second | {DIFFERENCE + name: first[name] - second[name] for name in first}

    compared = estimate(
        np.hstack([counts, group_counts(champion)]), both, confidence=confidence, unit_of=_unit_of_either
    )
    names = [name for name in compared if not name.startswith(DIFFERENCE)]
    return Comparison({name: compared[name] for name in names}, {name: compared[DIFFERENCE + name] for name in names})


def _unit_of_either(name: str) -> Unit:
    unit = unit_of(name.removeprefix(DIFFERENCE))
    if not name.startswith(DIFFERENCE):
        return unit
    return "points" if unit == "share" else "difference"


@dataclass(frozen=True)
class Disagreement:
    """An image on which the candidate does better or worse than the champion."""

    candidate: ImageResult
    champion: ImageResult

    @property
    def change(self) -> float:
        """Wrong pixels of the champion minus those of the candidate, as a share of the counted ones; below 0: worse."""
        return (self.champion.wrong_pixels - self.candidate.wrong_pixels) / int(self.candidate.confusion.sum())


def choose_disagreements(candidate: Evaluation, champion: Evaluation, count: int = SHOWN) -> list[Disagreement]:
    """Up to `count` images with the largest changes, at most one per group; the worst regression first.

    Half of the places are kept for regressions, where there are so many, so that they are seen however much better
    the candidate is.
    """
    _require_same_images(candidate, champion)
    pairs = zip(candidate.images, champion.images, strict=True)
    changed = [image for image in (Disagreement(*pair) for pair in pairs) if image.change]
    worst_first = sorted(changed, key=lambda image: (image.change, image.candidate.id))
    regressions = [image for image in worst_first if image.change < 0]
    largest = sorted(changed, key=lambda image: (-abs(image.change), image.candidate.id))
    chosen: dict[str, Disagreement] = {}
    for limit, images in ((count // 2, regressions), (count, largest)):
        for image in images:
            if len(chosen) < limit:
                chosen.setdefault(image.candidate.group, image)
    return sorted(chosen.values(), key=lambda image: (image.change, image.candidate.id))


def _require_same_images(candidate: Evaluation, champion: Evaluation) -> None:
    own, other = ([(image.id, image.group) for image in model.images] for model in (candidate, champion))
    if own != other or candidate.classes != champion.classes:
        raise ValueError("the two models were not evaluated on the same images and classes")
