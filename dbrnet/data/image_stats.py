"""A few numbers on each image's light and texture, and the table of them that a dataset carries.

image_stats.csv    id and FEATURES, one row an image; images too small for the network have none
"""

import csv
import io
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.bounds import MINIMUM_SIDE
from dbrnet.data.dataset import Dataset, Image, Sample, write_table
from dbrnet.errors import UserError
from dbrnet.parallel import ordered_map
from dbrnet.progress import progress

IMAGE_STATS_FILE = "image_stats.csv"

FEATURES = {
    "brightness": "mean grey value, 0 to 255",
    "contrast": "standard deviation of the grey values",
    "texture": "mean step from pixel to pixel, in grey values",
    "direction": "% of those steps that go down, not across",
    "clipped": "% of pixels that are black or white",
}

Features = NDArray[np.float64]  # [F], FEATURES in their order


def measure_image_stats(image: Image) -> Features:
    """The `FEATURES` [F] of an image [H, W, 3], in their order, on its grey version, to four decimals.

    `clipped` counts grey up to 2 and from 253, in whole %. The others are measured at half size, which
    suppresses the noise of camera and JPEG and keeps the surface's texture. Sums are of integers, so that every
    machine gets the same values. Raises `UserError` for an image below `MINIMUM_SIDE`.
    """
    height, width = image.shape[:2]
    if min(height, width) < MINIMUM_SIDE:
        raise UserError(f"an image of {height}x{width} is too small; both sides must be at least {MINIMUM_SIDE}")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    clipped = 1 - cv2.countNonZero(cv2.inRange(grey, 3, 252)) / grey.size
    clipped = round(clipped, 2)  # finer, a camera's first dead pixel would look like drift
    half = cv2.resize(grey, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(half))
    down = cv2.norm(half[1:], half[:-1], cv2.NORM_L1) / half[1:].size
    across = cv2.norm(half[:, 1:], half[:, :-1], cv2.NORM_L1) / half[:, 1:].size
    direction = down / (down + across) if down + across else 0.5
    return np.round([mean, deviation, (down + across) / 2, 100 * direction, 100 * clipped], 4)


def write_image_stats(dataset: Dataset, known: Mapping[str, Features]) -> None:
    """Write the dataset's image_stats.csv, on all cores; the bytes do not depend on their number.

    `known` (`image_sha256` -> features) are not measured again.
    """

    def measure(sample: Sample) -> Features:
        features = known.get(sample.image_sha256)
        return measure_image_stats(dataset.image(sample)) if features is None else features

    samples = [sample for sample in dataset.samples if min(sample.height, sample.width) >= MINIMUM_SIDE]
    measured = progress(ordered_map(measure, samples), len(samples), "image statistics")
    rows = ((sample.id, *features.tolist()) for sample, features in zip(samples, measured, strict=True))
    write_table(dataset.root / IMAGE_STATS_FILE, ("id", *FEATURES), rows)


def read_image_stats(dataset: Dataset) -> dict[str, Features]:
    """The features by `image_sha256`; empty where the dataset has no table. `UserError` where it is broken."""
    path = dataset.root / IMAGE_STATS_FILE
    if not path.exists():
        return {}
    try:
        rows = csv.DictReader(io.StringIO(path.read_text()))
        features = {row["id"]: np.array([float(row[name]) for name in FEATURES]) for row in rows}
        return {dataset.by_id[id_].image_sha256: values for id_, values in features.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit its dataset ({error!r}); ingest that again") from None
