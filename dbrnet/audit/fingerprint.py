"""An image's fingerprint: a coarse vector to search by, and a fine texture to compare by.

Both come from the band-passed grey image, without brightness, contrast and slow changes of light. Another
exposure, JPEG quality or lamp hardly changes them. A fingerprint takes about 12 KiB, whatever the image's size.
"""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Dataset, Sample
from dbrnet.errors import UserError
from dbrnet.parallel import ordered_map
from dbrnet.progress import progress

COARSE_SIDE = 16  # cells on each side of the coarse vector's square, whatever the image's shape
COARSE_BLUR = 3.0  # cells; slower changes are light
FINE_PIXELS = 11_500  # of the dataset's median image at the scale at which textures are compared
FINE_BLURS = 1.0, 4.0  # pixels at that scale; finer changes are noise, coarser ones light
FLAT = 0.35  # grey values; a smaller deviation holds nothing to recognise an image by
CLIP = 3.0  # deviations
STEPS = 127 / CLIP  # levels of the stored texture for one deviation

_REDUCED = {
    1: cv2.IMREAD_GRAYSCALE,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

Vector = NDArray[np.float32]  # [COARSE_SIDE ** 2], of length 1, or 0 where the image is flat
Texture = NDArray[np.uint8]  # [h, w], 128 + STEPS for each deviation


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of a dataset's images, in the order of its samples."""

    samples: tuple[Sample, ...]
    coarse: NDArray[np.float32]  # [N, COARSE_SIDE ** 2]
    textures: tuple[Texture, ...]
    brightness: NDArray[np.float32]  # [N], mean grey value
    scale: float  # of the textures, relative to the images


def take_fingerprints(dataset: Dataset) -> Fingerprints:
    """Fingerprint all images, each decoded once; raises `UserError` that names an unreadable one."""
    samples = dataset.samples
    # One scale for all images: one camera shows a part at one size, however its images are cropped.
    median_pixels = float(np.median([sample.height * sample.width for sample in samples]))
    scale = min(1.0, math.sqrt(FINE_PIXELS / median_pixels))
    coarse = np.zeros((len(samples), COARSE_SIDE**2), np.float32)
    brightness = np.zeros(len(samples), np.float32)
    textures: list[Texture] = []
    taken = ordered_map(partial(_fingerprint, dataset.root, scale), samples)
    for index, (vector, texture, mean) in enumerate(progress(taken, len(samples), "fingerprints")):
        coarse[index], brightness[index] = vector, mean
        textures.append(texture)
    return Fingerprints(samples, coarse, tuple(textures), brightness, scale)


def _fingerprint(root: Path, scale: float, sample: Sample) -> tuple[Vector, Texture, float]:
    path = root / sample.image
    reduced = max((step for step in _REDUCED if 1 / step >= 2 * scale), default=1)
    grey = cv2.imdecode(np.fromfile(path, np.uint8), _REDUCED[reduced])
    if grey is None:
        raise UserError(f"{path}: not a readable image; ingest again")
    size = (max(1, round(sample.width * scale)), max(1, round(sample.height * scale)))
    small = cv2.resize(grey, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    return _coarse(small), _texture(small), float(small.mean())


def _coarse(grey: NDArray[np.float32]) -> Vector:
    cells = cv2.resize(grey, (COARSE_SIDE, COARSE_SIDE), interpolation=cv2.INTER_AREA)
    relief = _relief(cells, 0, COARSE_BLUR)
    deviation = float(relief.std())
    if deviation < FLAT:
        return np.zeros(COARSE_SIDE**2, np.float32)
    relief = np.clip(relief, -CLIP * deviation, CLIP * deviation)
    relief -= relief.mean()
    return (relief / np.linalg.norm(relief)).ravel().astype(np.float32)


def _texture(grey: NDArray[np.float32]) -> Texture:
    relief = _relief(grey, *FINE_BLURS)
    local = cv2.GaussianBlur(relief * relief, (0, 0), 2 * FINE_BLURS[1])
    relief /= np.sqrt(local + FLAT**2)
    return (128 + np.clip(relief, -CLIP, CLIP) * STEPS).round().astype(np.uint8)


def _relief(grey: NDArray[Any], finest: float, coarsest: float) -> NDArray[np.float32]:
    """The band between `finest` and `coarsest`, in pixels."""
    smooth = cv2.GaussianBlur(grey, (0, 0), finest) if finest else grey
    return (smooth - cv2.GaussianBlur(grey, (0, 0), coarsest)).astype(np.float32)
