"""Small images with a texture of their own, in datasets made on the spot."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dbrnet.data.dataset import Dataset, Image, Mask, Sample
from tests.data.conftest import make_dataset

Labelled = tuple[Image, Mask]
Make = Callable[[dict[str, Labelled]], Dataset]


def steel(seed: int, height: int = 120, width: int = 120) -> Labelled:
    """Rolled texture of its own under uneven light, with one defect of class 1 or 2."""
    rng = np.random.default_rng(seed)
    grain = rng.normal(size=(height, width)).astype(np.float32)
    streaks = cv2.GaussianBlur(grain, (0, 0), sigmaX=1.2, sigmaY=4.0)
    light = np.linspace(-20, 20, width)[None, :]
    grey = 120 + 90 * streaks + light
    mask = np.zeros((height, width), np.uint8)
    center = tuple(int(value) for value in rng.integers(25, min(height, width) - 25, 2))
    axes = tuple(int(value) for value in rng.integers(8, 20, 2))
    cv2.ellipse(mask, center, axes, float(rng.integers(180)), 0, 360, 1 + seed % 2, -1)
    grey[mask > 0] -= 35
    image = np.clip(grey, 0, 255).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2), mask


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write images (id -> image and mask) as a dataset, each its own group by name."""

    def written(images: dict[str, Labelled]) -> Dataset:
        samples = []
        for folder in ("images", "masks"):
            (tmp_path / folder).mkdir(exist_ok=True)
        for id_, (image, mask) in images.items():
            files = f"images/{id_}.jpg", f"masks/{id_}.png"
            for file, pixels in zip(files, (image, mask), strict=True):
                cv2.imwrite(str(tmp_path / file), np.ascontiguousarray(pixels))
            classes = tuple(int(label) for label in np.unique(mask) if label)
            samples.append(Sample(id_, *files, *mask.shape, classes, id_, id_, id_))  # type: ignore[call-arg]
        return make_dataset(tmp_path, tuple(samples), ("background", "pit", "scratch"))

    return written


def exposed(image: NDArray[np.uint8], gain: float, offset: float) -> Image:
    """The image under another exposure."""
    return np.clip(image * gain + offset, 0, 255).astype(np.uint8)
