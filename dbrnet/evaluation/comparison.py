"""Candidate and champion on the same images: what differs, how surely, and where it can be seen."""

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
    """Compare two models that answered the same images.

    Both are scored on the same draws of groups, so that what makes an image hard for both cancels out of
    the difference. Raises ValueError where the images are not the same ones.
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
        """Wrong pixels of the champion minus the candidate's, as a share of those that count; < 0: worse."""
        return (self.champion.wrong_pixels - self.candidate.wrong_pixels) / int(self.candidate.confusion.sum())


def choose_disagreements(candidate: Evaluation, champion: Evaluation, count: int = SHOWN) -> list[Disagreement]:
    """The up to `count` images with the largest changes, one a group at most; the worst regression first.

    Half of the places are kept for regressions, where there are so many: however much better a candidate is,
    what it does worse is seen.
    """
    _require_same_images(candidate, champion)
    pairs = zip(candidate.images, champion.images, strict=True)
    changed = [one for one in (Disagreement(*pair) for pair in pairs) if one.change]
    regressions = sorted((one for one in changed if one.change < 0), key=lambda one: (one.change, one.candidate.id))
    largest = sorted(changed, key=lambda one: (-abs(one.change), one.candidate.id))
    chosen: dict[str, Disagreement] = {}
    for limit, some in ((count // 2, regressions), (count, largest)):
        for one in some:
            if len(chosen) < limit:
                chosen.setdefault(one.candidate.group, one)
    return sorted(chosen.values(), key=lambda one: (one.change, one.candidate.id))


def _require_same_images(one: Evaluation, other: Evaluation) -> None:
    images = [[(image.id, image.group) for image in side.images] for side in (one, other)]
    if images[0] != images[1] or one.classes != other.classes:
        raise ValueError("the two models were not evaluated on the same images and classes")
