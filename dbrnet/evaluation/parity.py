"""Parity: the distance of a runtime's outputs from PyTorch's, and its cost in accuracy.

It is measured on the deployed file, on every image of a split.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Dataset
from dbrnet.evaluation.metrics import Confusion, Scores, confusion_matrix
from dbrnet.progress import progress
from dbrnet.records import RuntimeParity

ClassIds = NDArray[np.uint8]  # [N, H, W]
Logits = NDArray[np.float32]  # [N, C, H, W]
# Images uint8 RGB [N, H, W, 3] in; class ids and the logits that they follow from out.
PredictWithLogits = Callable[[NDArray[np.uint8]], tuple[ClassIds, Logits]]

# Images that a runtime takes in one turn. Its threads spin for a while afterwards, and slow the next runtime down.
TURN = 16


@dataclass(frozen=True)
class Parity:
    """The distance of one runtime's outputs from those of PyTorch in float32."""

    max_logit_difference: float
    differing_pixels: float  # the share of pixels with another class
    miou_change: float  # its mIoU minus PyTorch's
    iou_change: dict[str, float | None]  # by class; None: absent from one of the two
    scores: Scores
    images: int

    def record(self, precision: str) -> RuntimeParity:
        """What metrics.json keeps. A NaN becomes None, which reads as not measured and which the gate rejects."""
        logits = self.max_logit_difference
        return RuntimeParity(
            precision=precision,
            images=self.images,
            miou=self.scores.miou,
            miou_defects=self.scores.miou_defects,
            iou=self.scores.iou,
            miou_change=self.miou_change,
            iou_change=self.iou_change,
            max_logit_difference=logits if isfinite(logits) else None,
            differing_pixels=self.differing_pixels,
        )


def measure_parity(
    reference: PredictWithLogits, runtimes: Mapping[str, PredictWithLogits], dataset: Dataset, ids: Sequence[str]
) -> dict[str, Parity]:
    """Run `reference` and each of `runtimes` on the images `ids`, each at its native size; the parity by name.

    Raises ValueError where there is no image, or a runtime's output has another shape.
    """
    if not ids:
        raise ValueError("parity needs at least one image")
    classes = tuple(info.name for info in dataset.card.classes)
    expected = np.zeros((len(classes), len(classes)), np.int64)
    counts = {name: _Counts(expected.copy()) for name in runtimes}
    turns = [ids[start : start + TURN] for start in range(0, len(ids), TURN)]
    for turn in progress(turns, len(turns), "parity"):
        samples = [dataset.by_id[id_] for id_ in turn]
        images = [dataset.image(sample)[None] for sample in samples]
        truths = [dataset.mask(sample)[None] for sample in samples]
        outputs = [reference(image) for image in images]
        for (mask, _), truth in zip(outputs, truths, strict=True):
            expected += confusion_matrix(mask, truth, len(classes))
        for name, predict in runtimes.items():
            for image, output, truth in zip(images, outputs, truths, strict=True):
                counts[name].add(*predict(image), *output, truth)
    target = Scores.from_confusion(expected, classes)
    return {name: count.result(target, classes, len(ids)) for name, count in counts.items()}


class _Counts:
    """The counts of one runtime, added up over the images."""

    def __init__(self, confusion: Confusion) -> None:
        self.confusion = confusion
        self.logit_difference = 0.0
        self.differing = self.pixels = 0

    def add(self, mask: ClassIds, logits: Logits, expected: ClassIds, expected_logits: Logits, truth: ClassIds) -> None:
        if mask.shape != expected.shape or logits.shape != expected_logits.shape:
            raise ValueError(
                f"answers {mask.shape} and logits {logits.shape} instead of "
                f"{expected.shape} and {expected_logits.shape}"
            )
        # np.maximum keeps a NaN, which a plain max() could lose.
        difference = np.abs(logits - expected_logits).max()
        self.logit_difference = float(np.maximum(self.logit_difference, difference))
        self.differing += int((mask != expected).sum())
        self.pixels += mask.size
        self.confusion += confusion_matrix(mask, truth, len(self.confusion))

    def result(self, target: Scores, classes: Sequence[str], images: int) -> Parity:
        scores = Scores.from_confusion(self.confusion, classes)

        def change(name: str) -> float | None:
            value, before = scores.iou[name], target.iou[name]
            return None if value is None or before is None else value - before

        return Parity(
            max_logit_difference=self.logit_difference,
            differing_pixels=self.differing / self.pixels,
            miou_change=scores.miou - target.miou,
            iou_change={name: change(name) for name in classes},
            scores=scores,
            images=images,
        )
