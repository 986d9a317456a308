"""Checks of every mask: the balance of classes over the splits, and masks that look wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Dataset
from dbrnet.progress import progress

FEW_PIXELS = 10  # a smaller defect is more likely a slip of the brush


@dataclass(frozen=True)
class Balance:
    """One split's share of the data; lists by class id, the background (defect-free images) first."""

    split: str
    images: int
    groups: int
    images_by_class: list[int]
    pixel_shares: list[float]
    brightness: tuple[float, float, float]  # grey values: darkest, median and brightest image


@dataclass(frozen=True)
class LabelChecks:
    """What the masks and sizes of the whole dataset are like."""

    balance: list[Balance]
    sizes: dict[str, int]  # "height x width" -> images, the most common first
    few_pixels: dict[str, int]  # id -> defect pixels, from 1 to FEW_PIXELS - 1
    out_of_range: dict[str, int]  # id -> the highest class id, where the card has no such class


def check_labels(
    dataset: Dataset, groups: Mapping[str, str], brightness: NDArray[np.float32], splits: Mapping[str, Sequence[str]]
) -> LabelChecks:
    """Count every mask's pixels.

    `groups` maps ids to groups, `splits` names to ids; `brightness` [N] is the images', in the samples' order.
    """
    classes = len(dataset.card.classes)
    pixels: dict[str, NDArray[np.int64]] = {}
    out_of_range: dict[str, int] = {}
    for sample in progress(dataset.samples, len(dataset.samples), "masks"):
        counts = np.bincount(dataset.mask(sample).ravel(), minlength=classes)
        if len(counts) > classes:
            out_of_range[sample.id] = len(counts) - 1
        pixels[sample.id] = counts[:classes]
    light = dict(zip(dataset.by_id, brightness.tolist(), strict=True))

    def balance(name: str, ids: Sequence[str]) -> Balance:
        total = np.sum([pixels[id_] for id_ in ids], axis=0)
        values = np.array([light[id_] for id_ in ids])
        present = Counter(label for id_ in ids for label in dataset.by_id[id_].classes or (0,))
        return Balance(
            split=name,
            images=len(ids),
            groups=len({groups[id_] for id_ in ids}),
            images_by_class=[present[label] for label in range(classes)],
            pixel_shares=(total / total.sum()).tolist(),
            brightness=(float(values.min()), float(np.median(values)), float(values.max())),
        )

    sizes = Counter(f"{sample.height} x {sample.width}" for sample in dataset.samples)
    defects = {id_: int(counts[1:].sum()) for id_, counts in pixels.items()}
    return LabelChecks(
        balance=[balance(name, ids) for name, ids in splits.items() if ids],
        sizes=dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))),
        few_pixels={id_: count for id_, count in defects.items() if 0 < count < FEW_PIXELS},
        out_of_range=out_of_range,
    )
