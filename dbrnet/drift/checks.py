"""Is retraining warranted? What has come in, held against thresholds, one check a reason."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo
from dbrnet.drift.distances import Shift, class_balance, compare_classes, compare_values, group_weights
from dbrnet.drift.new_samples import NewSamples

COUNT, CLASSES = "new labelled images", "class balance"


@dataclass(frozen=True)
class Feature:
    """One number for each of many images, and each image's group."""

    values: NDArray[np.float64]  # [N]
    groups: tuple[str, ...]

    @property
    def weights(self) -> NDArray[np.float64]:
        """Each image's weight [N], equal for each group, 1 together."""
        return group_weights(self.groups)

    @property
    def mean(self) -> float:
        """Over groups."""
        return float(self.values @ self.weights)


@dataclass(frozen=True)
class Check:
    """One figure held against its threshold; `figure` is None where there was nothing to measure it on."""

    name: str
    figure: float | None
    threshold: float  # of a shift: the larger of the parameter and of what chance alone reaches
    warrants: bool  # retraining
    text: str  # for a person
    shift: Shift | None = None
    before: float | Mapping[str, float] | None = None  # a feature's mean, or each class's share
    now: float | Mapping[str, float] | None = None


def check_count(new_samples: NewSamples, enough: int) -> Check:
    """Whether at least `enough` labelled images are new or have a new mask."""
    if new_samples.relabelled is None:
        return Check(COUNT, None, enough, False, f"{COUNT}: not measured, these images have no masks")
    new, relabelled, known = len(new_samples.new), new_samples.relabelled, len(new_samples.reference)
    text = (
        f"{new} new labelled images and {relabelled} relabelled ones, {(new + relabelled) / known:.1%} of "
        f"the champion's {known}; threshold {enough}"
    )
    return Check(COUNT, new + relabelled, enough, new + relabelled >= enough, text)


def check_classes(new_samples: NewSamples, classes: tuple[ClassInfo, ...], limit: float) -> Check:
    """Whether the class balance of the new labelled images is another than the champion's."""
    before, new = new_samples.reference, new_samples.new
    if before.labels is None or new.labels is None or not len(new):
        return Check(CLASSES, None, limit, False, f"{CLASSES}: not measured, no new labelled images")
    shift = compare_classes(before.labels, before.groups, new.labels, new.groups, classes=len(classes))
    previous, latter = (
        {
            info.name: float(share)
            for info, share in zip(classes, class_balance(labels, groups, len(classes)), strict=True)
        }
        for labels, groups in ((before.labels, before.groups), (new.labels, new.groups))
    )
    most = max(previous, key=lambda name: abs(latter[name] - previous[name]))
    what = f"most of all {most}, from {previous[most]:.1%} to {latter[most]:.1%}"
    return _check_shift(CLASSES, shift, limit, what, previous, latter)


def check_feature(name: str, unit: str, before: Feature, new: Feature, *, limit: float, comparisons: int) -> Check:
    """Whether the feature is spread otherwise over the new images than over the champion's."""
    if not len(new.values):
        return Check(name, None, limit, False, f"{name}: not measured, no new images")
    shift = compare_values(before.values, before.groups, new.values, new.groups, comparisons=comparisons)
    what = f"from {before.mean:.4g} to {new.mean:.4g} ({unit})"
    return _check_shift(name, shift, limit, what, before.mean, new.mean)


def _check_shift(
    name: str,
    shift: Shift,
    limit: float,
    what: str,
    before: float | Mapping[str, float],
    now: float | Mapping[str, float],
) -> Check:
    threshold, warrants = max(limit, shift.chance), shift.exceeds(limit)
    verdict = "has shifted by" if warrants else "is as it was, shift"
    text = f"{name} {verdict} {shift.distance:.2f}, threshold {threshold:.2f}: {what}"
    return Check(name, shift.distance, threshold, warrants, text, shift, before, now)
