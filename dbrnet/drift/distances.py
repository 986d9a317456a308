"""How far new data have moved from what the champion learned: the statistics, on numbers alone.

A shift is a distance between two distributions, from 0 (the same) to 1 (nothing in common): of an
image's feature the Kolmogorov-Smirnov distance, of the classes the Jensen-Shannon distance. Images of
one group are near-copies and no independent evidence: each group weighs one, shared out among its
images, and counts as one observation where a distance is held against what chance alone reaches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2, kstwobign

FALSE_ALARMS = 0.01  # how often unchanged data may exceed the chance bound

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Shift:
    """One distance and what it has to exceed. `means` and `groups` are of the reference and of the new."""

    distance: float  # 0 to 1
    chance: float  # unchanged data of so many groups exceed it in FALSE_ALARMS of all cases; 1: always below
    groups: tuple[int, int]

    def exceeds(self, limit: float) -> bool:
        """Whether the shift is larger than `limit` and larger than chance explains."""
        return self.distance > max(limit, self.chance)


def compare_values(
    reference: Values, reference_groups: Sequence[str], new: Values, new_groups: Sequence[str], *, comparisons: int
) -> Shift:
    """The shift of one feature [N] of the reference's images to that [M] of the new ones.

    `comparisons` features are looked at together and share `FALSE_ALARMS` (Bonferroni). The chance bound is
    Kolmogorov's, for as many observations as there are groups: likeness inside groups only lowers the truth.
    """
    weights, new_weights = group_weights(reference_groups), group_weights(new_groups)
    groups = (len(set(reference_groups)), len(set(new_groups)))
    bound = kstwobign.isf(FALSE_ALARMS / comparisons) * np.sqrt(1 / groups[0] + 1 / groups[1])
    return Shift(
        distance=ks_distance(reference, weights, new, new_weights), chance=min(1.0, float(bound)), groups=groups
    )


def compare_classes(
    reference: Sequence[Sequence[int]],
    reference_groups: Sequence[str],
    new: Sequence[Sequence[int]],
    new_groups: Sequence[str],
    *,
    classes: int,
) -> Shift:
    """The shift of the class balance; each image is given as the defect ids that it holds.

    The chance bound is Pearson's chi-squared: for samples of n and m from the same k classes, the squared
    distance is at most chi-squared of k - 1 degrees times (1/n + 1/m) / 4 (Topsoe 2000: the
    Jensen-Shannon divergence in bits is at most half the triangular discrimination).
    """
    before = class_balance(reference, reference_groups, classes)
    after = class_balance(new, new_groups, classes)
    groups = (len(set(reference_groups)), len(set(new_groups)))
    seen = int(np.count_nonzero(before + after))
    spread = chi2.isf(FALSE_ALARMS, max(seen - 1, 1)) * (1 / groups[0] + 1 / groups[1])
    return Shift(distance=js_distance(before, after), chance=min(1.0, float(np.sqrt(spread / 4))), groups=groups)


def group_weights(groups: Sequence[str]) -> Values:
    """Each image's weight [N], all of them 1 together: equal for each group, and for each image in it."""
    _, which, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    weights: Values = 1.0 / (counts[which] * len(counts))
    return weights


def ks_distance(reference: Values, reference_weights: Values, new: Values, new_weights: Values) -> float:
    """The largest difference of two weighted cumulative distributions (two-sample Kolmogorov-Smirnov)."""
    values = np.concatenate((reference, new))
    order = np.argsort(values, kind="stable")
    values = values[order]
    difference = np.cumsum(np.concatenate((reference_weights, -new_weights))[order])
    ends = np.append(values[1:] != values[:-1], True)  # equal values count together
    return float(min(1.0, np.abs(difference[ends]).max()))


def class_balance(labels: Sequence[Sequence[int]], groups: Sequence[str], classes: int) -> Values:
    """The share of each class [C], background first: an image is shared out among the defects it holds."""
    balance = np.zeros(classes)
    for held, weight in zip(labels, group_weights(groups), strict=True):
        for label in held or (0,):
            balance[label] += weight / (len(held) or 1)
    return balance


def js_distance(before: Values, after: Values) -> float:
    """The Jensen-Shannon distance of two distributions [C], in bits' square root: 0 to 1."""
    distance = float(jensenshannon(before, after, base=2))
    return min(1.0, distance) if distance > 0 else 0.0  # rounding can leave a NaN where they are equal
