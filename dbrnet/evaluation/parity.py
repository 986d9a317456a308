"""Parity: the distance of a runtime's outputs from PyTorch's, and its cost in accuracy.

It is measured on the deployed file, on every image of a split.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Dataset
from dbrnet.evaluation.metrics import Confusion, Scores, confusion_matrix
from dbrnet.progress import progress
from dbrnet.records import RuntimeParity

ClassIds = NDArray[np.uint8]  # [N, H, W]
Logits = NDArray[np.float32]  # [N, C, H, W]

# Images that a runtime takes in one turn. Its threads spin for a while afterwards, and slow the next runtime down.
TURN = 16


class Runtime(Protocol):
    """What is compared: a network in some runtime, and the precision of most of its arithmetic."""

    precision: str

    def predict_with_logits(self, images: NDArray[np.uint8], /) -> tuple[ClassIds, Logits]:
        """Class ids and the logits that they follow from, of images uint8 RGB [N, H, W, 3]."""
        ...


def measure_parity(
    reference: Runtime, runtimes: Mapping[str, Runtime], dataset: Dataset, ids: Sequence[str]
) -> dict[str, RuntimeParity]:
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
        outputs = [reference.predict_with_logits(image) for image in images]
        for (mask, _), truth in zip(outputs, truths, strict=True):
            expected += confusion_matrix(mask, truth, len(classes))
        for name, runtime in runtimes.items():
            for image, output, truth in zip(images, outputs, truths, strict=True):
                counts[name].add(*runtime.predict_with_logits(image), *output, truth)
    target = Scores.from_confusion(expected, classes)
    return {name: counts[name].record(target, runtime.precision, len(ids)) for name, runtime in runtimes.items()}


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

    def record(self, target: Scores, precision: str, images: int) -> RuntimeParity:
        scores = Scores.from_confusion(self.confusion, list(target.iou))

        def change(name: str) -> float | None:
            value, before = scores.iou[name], target.iou[name]
            return None if value is None or before is None else value - before

        return RuntimeParity(
            precision=precision,
            images=images,
            miou=scores.miou,
            miou_defects=scores.miou_defects,
            iou=scores.iou,
            miou_change=scores.miou - target.miou,
            iou_change={name: change(name) for name in target.iou},
            # A NaN becomes None, which reads as not measured and which the gate rejects.
            max_logit_difference=self.logit_difference if isfinite(self.logit_difference) else None,
            differing_pixels=self.differing / self.pixels,
        )
