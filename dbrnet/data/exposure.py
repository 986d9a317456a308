"""Taking an image's exposure out of it, in the two places that must agree: training and the exported graph.

Images of one line differ in light more than defects differ from the metal. Where they do, a network that
reads grey values as they are learns nothing for thousands of iterations (docs/results.md, MT).
"""

import cv2
import numpy as np
from torch import Tensor

from dbrnet.data.dataset import Image

MEAN, DEVIATION = 128, 32  # grey values, so that four deviations either way fit into 8 bits
LEAST_DEVIATION = 5  # grey values; what is flatter than this is not stretched as if it had content


def normalise_exposure(image: Image) -> Image:
    """Bring the grey values of an image [H, W, 3] to one mean and deviation, all channels alike."""
    mean, deviation = cv2.meanStdDev(image.reshape(len(image), -1))
    scale = DEVIATION / max(float(deviation[0, 0]), LEAST_DEVIATION)
    levels = np.arange(256) * scale + (MEAN - float(mean[0, 0]) * scale)
    return cv2.LUT(image, np.clip(np.rint(levels), 0, 255).astype(np.uint8)).astype(np.uint8, copy=False)


def normalise_exposure_batch(images: Tensor) -> Tensor:
    """The same for each of [N, 3, H, W], grey values as floats, but for the rounding to 8 bits.

    Rounding moves a value by a 64th of a deviation at most; in the graph it would make one runtime's last
    digit another's next level.
    """
    moved = images - _mean(images)
    deviation = _mean(moved.square()).sqrt()
    return (moved * (DEVIATION / deviation.clamp_min(LEAST_DEVIATION)) + MEAN).clamp(0, 255)


def _mean(images: Tensor) -> Tensor:
    # Side by side, not all at once: over a million pixels ONNX Runtime's mean is wrong in the fifth digit,
    # which moved logits by .002 on strips of 256x1600.
    return images.mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True)
