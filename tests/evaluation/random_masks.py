"""Random masks with regions of all classes, and evaluations made of them."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dbrnet.evaluation.defect_metrics import count_defects, no_defects
from dbrnet.evaluation.metrics import IGNORE_INDEX, confusion_matrix
from dbrnet.evaluation.predictions import Evaluation, ImageResult
from dbrnet.records import Estimate, MatchFacts

Mask = NDArray[np.uint8]
CLASSES = 4
NAMES = ("background", "scratch", "dent", "stain")
RULES = MatchFacts(min_overlap=0.5, boundary_tolerance=1)


def blobs(rng: np.random.Generator, height: int, width: int, coarse: float) -> Mask:
    """Random regions of classes 0 to 3, the background most of all, as large as `coarse` says."""
    field = ndimage.gaussian_filter(rng.normal(size=(height, width)), coarse)
    return np.digitize(field / field.std(), [0.3, 0.9, 1.5]).astype(np.uint8)


def masks(seed: int, height: int = 31, width: int = 43) -> tuple[Mask, Mask]:
    """A prediction and a truth that have much in common, with ignored patches in the truth."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0.4, 4)
    truth = blobs(rng, height, width, coarse)
    other = blobs(rng, height, width, coarse)
    shift = rng.integers(-2, 3, 2)
    prediction = np.where(blobs(rng, height, width, 3) > 1, other, np.roll(truth, shift, (0, 1))).astype(np.uint8)
    if rng.random() < 0.6:
        truth[blobs(rng, height, width, rng.uniform(0.3, 3)) == 3] = IGNORE_INDEX
    return prediction, truth


def image(id_: str, group: str, prediction: Mask, truth: Mask) -> ImageResult:
    confusion = confusion_matrix(prediction, truth, CLASSES)
    return ImageResult(id_, group, confusion, 0.5, count_defects(prediction, truth, CLASSES, RULES))


def evaluation(seeds: Iterable[int], groups: int) -> Evaluation:
    """An image a seed, in turn in one of `groups` groups; a third of them are defect-free in truth."""
    images = []
    for number, seed in enumerate(seeds):
        prediction, truth = masks(seed, 20, 24)
        if number % 3 == 0:
            truth[(truth > 0) & (truth != IGNORE_INDEX)] = 0
            prediction[prediction < 3] = 0
        images.append(image(f"p{number:03}", f"g{number % groups}", prediction, truth))
    return Evaluation(NAMES, tuple(images))


def results(wrong: list[int], groups: str = "") -> Evaluation:
    """Images of 100 pixels with so many wrong ones each; a group a letter, or each its own."""
    images = (
        ImageResult(
            f"p{number:02}",
            groups[number] if groups else str(number),
            np.array([[50, 0], [missed, 50 - missed]], np.int64),
            1.0,
            no_defects(1),
        )
        for number, missed in enumerate(wrong)
    )
    return Evaluation(("background", "dent"), tuple(images))


def width(one: Estimate) -> float:
    assert one.low is not None
    assert one.high is not None
    return one.high - one.low
