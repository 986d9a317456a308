"""What a picture looks like, in a few numbers, and the table of them that a dataset carries.

appearance.csv    id and FEATURES, one row a picture; none for those too small for the network
"""

import csv
import io
from collections.abc import Mapping

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.conversion import in_order
from dbrnet.data.dataset import Dataset, Image, Sample
from dbrnet.errors import UserError
from dbrnet.files import write_atomically
from dbrnet.progress import Progress

SMALLEST_SIDE = 32  # pixels; the network takes nothing smaller either
APPEARANCE_FILE = "appearance.csv"

FEATURES = {
    "brightness": "mean grey value, 0 to 255",
    "contrast": "standard deviation of the grey values",
    "texture": "mean step from pixel to pixel, in grey values",
    "direction": "% of those steps that go down, not across",
    "clipped": "% of pixels that are black or white",
}

Features = NDArray[np.float64]  # [F], FEATURES in their order


def measure_appearance(image: Image) -> Features:
    """The `FEATURES` [F] of a picture [H, W, 3], in their order, on its grey version, to four decimals.

    All but `clipped` (grey up to 2 or from 253, in whole %) are taken at half size, where a pixel is the mean
    of four: noise of the camera and of JPEG is less, the surface's own texture stays. Sums are of whole
    numbers, so that every machine finds the same. Raises `UserError` for a picture that is too small.
    """
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"a picture of {height}x{width} is too small; both sides must be at least {SMALLEST_SIDE}"
        )
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    clipped = 1 - cv2.countNonZero(cv2.inRange(grey, 3, 252)) / grey.size
    clipped = round(clipped, 2)  # or the first dead pixel would set all pictures apart from those before it
    half = cv2.resize(grey, (width // 2, height // 2), interpolation=cv2.INTER_AREA)
    mean, deviation = (float(value[0, 0]) for value in cv2.meanStdDev(half))
    down = cv2.norm(half[1:], half[:-1], cv2.NORM_L1) / half[1:].size
    across = cv2.norm(half[:, 1:], half[:, :-1], cv2.NORM_L1) / half[:, 1:].size
    direction = down / (down + across) if down + across else 0.5
    return np.round([mean, deviation, (down + across) / 2, 100 * direction, 100 * clipped], 4)


def write_appearance(
    dataset: Dataset, known: Mapping[str, Features], progress: Progress | None = None
) -> None:
    """Write the dataset's appearance.csv, on all cores; the same whatever their number.

    `known`, from a picture's `picture_sha256`, need not be measured again.
    """

    def measure(sample: Sample) -> Features:
        found = known.get(sample.picture_sha256)
        return measure_appearance(dataset.image(sample)) if found is None else found

    samples = [one for one in dataset.samples if min(one.height, one.width) >= SMALLEST_SIDE]
    measured = in_order(measure, samples)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", *FEATURES))
    shown = progress(measured, len(samples), "appearance") if progress else measured
    for sample, features in zip(samples, shown, strict=True):
        writer.writerow((sample.id, *features.tolist()))
    write_atomically(dataset.root / APPEARANCE_FILE, text.getvalue())


def read_appearance(dataset: Dataset) -> dict[str, Features]:
    """The features by `picture_sha256`; empty where an earlier version ingested the dataset.

    Raises `UserError` where the table is broken.
    """
    path = dataset.root / APPEARANCE_FILE
    if not path.exists():
        return {}
    try:
        rows = csv.DictReader(io.StringIO(path.read_text()))
        return {
            dataset.by_id[row["id"]].picture_sha256: np.array([float(row[name]) for name in FEATURES])
            for row in rows
        }
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} does not fit its dataset ({error!r}); ingest that again") from None
