"""What an image looks like, in a few numbers, and the table of them that a dataset carries.

image_stats.csv    id and FEATURES, one row an image; none for those too small for the network
"""

import csv
import io
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.bounds import MINIMUM_SIDE
from dbrnet.data.convert import ordered_map
from dbrnet.data.dataset import Dataset, Image, Sample
from dbrnet.errors import UserError
from dbrnet.files import write_atomically
from dbrnet.progress import Progress

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

    All but `clipped` (grey up to 2 or from 253, in whole %) are taken at half size, where a pixel is the mean
    of four: noise of the camera and of JPEG is less, the surface's own texture stays. Sums are of whole
    numbers, so that every machine finds the same. Raises `UserError` for an image that is too small.
    """
    height, width = image.shape[:2]
    if min(height, width) < MINIMUM_SIDE:
        raise UserError(f"an image of {height}x{width} is too small; both sides must be at least {MINIMUM_SIDE}")
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    clipped = 1 - cv2.countNonZero(cv2.inRange(grey, 3, 252)) / grey.size
    clipped = round(clipped, 2)  # or the first dead pixel would set all images apart from those before it
    half = cv2.resize(grey, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(half))
    down = cv2.norm(half[1:], half[:-1], cv2.NORM_L1) / half[1:].size
    across = cv2.norm(half[:, 1:], half[:, :-1], cv2.NORM_L1) / half[:, 1:].size
    direction = down / (down + across) if down + across else 0.5
    return np.round([mean, deviation, (down + across) / 2, 100 * direction, 100 * clipped], 4)


def write_image_stats(dataset: Dataset, known: Mapping[str, Features], progress: Progress | None = None) -> None:
    """Write the dataset's image_stats.csv, on all cores; the same whatever their number.

    `known`, from an image's `image_sha256`, need not be measured again.
    """

    def measure(sample: Sample) -> Features:
        found = known.get(sample.image_sha256)
        return measure_image_stats(dataset.image(sample)) if found is None else found

    samples = [one for one in dataset.samples if min(one.height, one.width) >= MINIMUM_SIDE]
    measured = ordered_map(measure, samples)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", *FEATURES))
    shown = progress(measured, len(samples), "image_stats") if progress else measured
    for sample, features in zip(samples, shown, strict=True):
        writer.writerow((sample.id, *features.tolist()))
    write_atomically(dataset.root / IMAGE_STATS_FILE, text.getvalue())


def read_image_stats(dataset: Dataset) -> dict[str, Features]:
    """The features by `image_sha256`; empty where an earlier version ingested the dataset.

    Raises `UserError` where the table is broken.
    """
    path = dataset.root / IMAGE_STATS_FILE
    if not path.exists():
        return {}
    try:
        rows = csv.DictReader(io.StringIO(path.read_text()))
        return {
            dataset.by_id[row["id"]].image_sha256: np.array([float(row[name]) for name in FEATURES]) for row in rows
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit its dataset ({error!r}); ingest that again") from None
