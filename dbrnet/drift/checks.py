"""Drift checks: how far new data have moved from what the champion learned, held against thresholds.

A shift is a distance between two distributions, from 0 (the same) to 1 (nothing in common): the
Kolmogorov-Smirnov distance for a feature of the images, the Jensen-Shannon distance for the classes. Images of
one group are near-duplicates and no independent evidence. So each group weighs one, divided among its images,
and counts as one observation when a distance is compared with what chance alone reaches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import jensenshannon
from scipy.stats import chi2, kstwobign

from dbrnet.data.dataset import ClassInfo
from dbrnet.drift.new_samples import NewSamples
from dbrnet.records import DriftCheck, ShiftFacts

FALSE_ALARMS = 0.01  # how often unchanged data may exceed the chance bound
COUNT, CLASSES = "new labelled images", "class balance"

Values = NDArray[np.float64]
Average = float | dict[str, float]  # a feature's mean, or each class's share


@dataclass(frozen=True)
class Feature:
    """One number for each image, and each image's group."""

    values: Values  # [N]
    groups: tuple[str, ...]

    @property
    def weights(self) -> Values:
        """Each image's weight [N], see `group_weights`."""
        return group_weights(self.groups)

    @property
    def mean(self) -> float:
        """The mean over groups."""
        return float(self.values @ self.weights)


def check_count(new_samples: NewSamples, enough: int) -> DriftCheck:
    """Whether at least `enough` labelled images are new or have a new mask."""
    if new_samples.relabelled is None:
        return _not_measured(COUNT, enough, "these images have no masks")
    new, relabelled, known = len(new_samples.new), new_samples.relabelled, len(new_samples.reference)
    text = (
        f"{new} new labelled images and {relabelled} relabelled ones, {(new + relabelled) / known:.1%} of "
        f"the champion's {known}; threshold {enough}"
    )
    count = new + relabelled
    return DriftCheck(name=COUNT, figure=count, threshold=enough, warrants=count >= enough, text=text)


def check_classes(new_samples: NewSamples, classes: tuple[ClassInfo, ...], limit: float) -> DriftCheck:
    """Whether the class balance of the new labelled images differs from that of the champion's."""
    before, new = new_samples.reference, new_samples.new
    if before.labels is None or new.labels is None or not len(new):
        return _not_measured(CLASSES, limit, "no new labelled images")
    shift = compare_classes(before.labels, before.groups, new.labels, new.groups, classes=len(classes))
    names = [info.name for info in classes]
    old_shares = dict(zip(names, class_balance(before.labels, before.groups, len(names)).tolist(), strict=True))
    new_shares = dict(zip(names, class_balance(new.labels, new.groups, len(names)).tolist(), strict=True))
    most = max(names, key=lambda name: abs(new_shares[name] - old_shares[name]))
    change = f"most of all {most}, from {old_shares[most]:.1%} to {new_shares[most]:.1%}"
    return _check_shift(CLASSES, shift, limit, change, old_shares, new_shares)


def check_feature(name: str, unit: str, before: Feature, new: Feature, *, limit: float, comparisons: int) -> DriftCheck:
    """Whether a feature's distribution over the new images differs from that over the champion's.

    `comparisons` features are checked together, see `compare_values`.
    """
    if not len(new.values):
        return _not_measured(name, limit, "no new images")
    shift = compare_values(before.values, before.groups, new.values, new.groups, comparisons=comparisons)
    change = f"from {before.mean:.4g} to {new.mean:.4g} ({unit})"
    return _check_shift(name, shift, limit, change, before.mean, new.mean)


def _not_measured(name: str, threshold: float, why: str) -> DriftCheck:
    text = f"{name}: not measured, {why}"
    return DriftCheck(name=name, figure=None, threshold=threshold, warrants=False, text=text)


def _check_shift(name: str, shift: ShiftFacts, limit: float, change: str, before: Average, now: Average) -> DriftCheck:
    threshold, warrants = max(limit, shift.chance), exceeds(shift, limit)
    verdict = "has shifted by" if warrants else "is as it was, shift"
    return DriftCheck(
        name=name,
        figure=shift.distance,
        threshold=threshold,
        warrants=warrants,
        text=f"{name} {verdict} {shift.distance:.2f}, threshold {threshold:.2f}: {change}",
        shift=shift,
        before=before,
        now=now,
    )


def exceeds(shift: ShiftFacts, limit: float) -> bool:
    """Whether the shift is larger than `limit` and than chance explains."""
    return shift.distance > max(limit, shift.chance)


def compare_values(
    reference: Values, reference_groups: Sequence[str], new: Values, new_groups: Sequence[str], *, comparisons: int
) -> ShiftFacts:
    """The shift of one feature from the reference's images [N] to the new ones [M].

    `comparisons` features share `FALSE_ALARMS` (Bonferroni). The chance bound is Kolmogorov's, for as many
    observations as there are groups; likeness within groups only lowers the true one.
    """
    groups = len(set(reference_groups)), len(set(new_groups))
    bound = kstwobign.isf(FALSE_ALARMS / comparisons) * np.sqrt(1 / groups[0] + 1 / groups[1])
    distance = ks_distance(reference, group_weights(reference_groups), new, group_weights(new_groups))
    return ShiftFacts(distance=distance, chance=min(1.0, float(bound)), groups=groups)


def compare_classes(
    reference: Sequence[Sequence[int]],
    reference_groups: Sequence[str],
    new: Sequence[Sequence[int]],
    new_groups: Sequence[str],
    *,
    classes: int,
) -> ShiftFacts:
    """The shift of the class balance; each image is given by the defect ids that it holds.

    The chance bound is Pearson's chi-squared: for samples of n and m from the same k classes, the squared
    distance is at most chi-squared of k - 1 degrees times (1/n + 1/m) / 4 (Topsoe 2000: the
    Jensen-Shannon divergence in bits is at most half the triangular discrimination).
    """
    before = class_balance(reference, reference_groups, classes)
    after = class_balance(new, new_groups, classes)
    groups = len(set(reference_groups)), len(set(new_groups))
    present = int(np.count_nonzero(before + after))
    spread = chi2.isf(FALSE_ALARMS, max(present - 1, 1)) * (1 / groups[0] + 1 / groups[1])
    return ShiftFacts(distance=js_distance(before, after), chance=min(1.0, float(np.sqrt(spread / 4))), groups=groups)


def group_weights(groups: Sequence[str]) -> Values:
    """Each image's weight [N], with sum 1: equal for each group, and for each image within it."""
    _, index, counts = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    weights: Values = 1.0 / (counts[index] * len(counts))
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
    """The share of each class [C], background first; an image is divided among the defects that it holds."""
    balance = np.zeros(classes)
    for held, weight in zip(labels, group_weights(groups), strict=True):
        for label in held or (0,):
            balance[label] += weight / (len(held) or 1)
    return balance


def js_distance(before: Values, after: Values) -> float:
    """The Jensen-Shannon distance of two distributions [C], 0 to 1: the square root of the divergence in bits."""
    distance = float(jensenshannon(before, after, base=2))
    return min(1.0, distance) if distance > 0 else 0.0  # rounding can leave a NaN where they are equal
