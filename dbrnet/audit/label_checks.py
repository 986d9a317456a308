"""What a look at every mask tells: how the classes fall on the splits, and which masks are odd."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Dataset
from dbrnet.progress import progress

FEW_PIXELS = 10  # a defect smaller than this is more likely a slip of the brush


@dataclass(frozen=True)
class Balance:
    """One split's share of the data; lists by class id, the background (defect-free images) first."""

    split_name: str
    images: int
    groups: int
    images_by_class: list[int]
    pixel_shares: list[float]
    brightness: tuple[float, float, float]  # grey values: darkest, median and brightest image


@dataclass(frozen=True)
class LabelChecks:
    """What the masks and sizes are like, over the whole dataset."""

    balance: list[Balance]
    sizes: dict[str, int]  # "height x width" -> images, the most common first
    few_pixels: dict[str, int]  # id -> defect pixels, where there are some and fewer than FEW_PIXELS
    out_of_range: dict[str, int]  # id -> the highest class id, where it is none of the card's


def check_labels(
    dataset: Dataset, groups: Mapping[str, str], brightness: NDArray[np.float32], splits: Mapping[str, Sequence[str]]
) -> LabelChecks:
    """Count every mask's pixels; `brightness` is the images' in the order of the samples."""
    classes = len(dataset.card.classes)
    pixels: dict[str, NDArray[np.int64]] = {}
    out_of_range: dict[str, int] = {}
    for sample in progress(dataset.samples, len(dataset.samples), "masks"):
        counts = np.bincount(dataset.mask(sample).ravel(), minlength=classes)
        if len(counts) > classes:
            out_of_range[sample.id] = len(counts) - 1
        pixels[sample.id] = counts[:classes]
    light = dict(zip((sample.id for sample in dataset.samples), brightness.tolist(), strict=True))
    sizes = Counter(f"{sample.height} x {sample.width}" for sample in dataset.samples)
    defects = {id_: int(counts[1:].sum()) for id_, counts in pixels.items()}
    return LabelChecks(
        balance=[
            _balance(split_name, ids, dataset, groups, pixels, light) for split_name, ids in splits.items() if ids
        ],
        sizes=dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))),
        few_pixels={id_: count for id_, count in defects.items() if 0 < count < FEW_PIXELS},
        out_of_range=out_of_range,
    )


def _balance(
    split_name: str,
    ids: Sequence[str],
    dataset: Dataset,
    groups: Mapping[str, str],
    pixels: Mapping[str, NDArray[np.int64]],
    light: Mapping[str, float],
) -> Balance:
    held = [dataset.by_id[id_].classes or (0,) for id_ in ids]
    total = np.sum([pixels[id_] for id_ in ids], axis=0)
    values = np.array([light[id_] for id_ in ids])
    return Balance(
        split_name=split_name,
        images=len(ids),
        groups=len({groups[id_] for id_ in ids}),
        images_by_class=[sum(label in one for one in held) for label in range(len(dataset.card.classes))],
        pixel_shares=(total / total.sum()).tolist(),
        brightness=(float(values.min()), float(np.median(values)), float(values.max())),
    )
