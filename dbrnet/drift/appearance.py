"""What a picture looks like, in a few numbers."""

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Image
from dbrnet.errors import UserError

SMALLEST_SIDE = 32  # pixels; the network takes nothing smaller either

FEATURES = {
    "brightness": "mean grey value, 0 to 255",
    "contrast": "standard deviation of the grey values",
    "texture": "mean step from pixel to pixel, in grey values",
    "direction": "% of those steps that go down, not across",
    "clipped": "% of pixels that are black or white",
}


def measure_appearance(image: Image) -> NDArray[np.float64]:
    """The `FEATURES` [F] of a picture [H, W, 3], in their order, on its grey version.

    All but `clipped` (grey up to 2 or from 253, in whole %) are taken at half size, where a pixel is the mean
    of four: noise of the camera and of JPEG is less, the surface's own texture stays. Raises `UserError` for
    a picture that is too small.
    """
    height, width = image.shape[:2]
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"a picture of {height}x{width} is too small; both sides must be at least {SMALLEST_SIDE}"
        )
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    clipped = np.count_nonzero((grey <= 2) | (grey >= 253)) / grey.size
    clipped = round(clipped, 2)  # or the first dead pixel would set all pictures apart from those before it
    half = cv2.resize(grey, (width // 2, height // 2), interpolation=cv2.INTER_AREA).astype(np.float32)
    down = float(np.abs(np.diff(half, axis=0)).mean())
    across = float(np.abs(np.diff(half, axis=1)).mean())
    direction = down / (down + across) if down + across else 0.5
    return np.array(
        [half.mean(), half.std(), (down + across) / 2, 100 * direction, 100 * clipped], np.float64
    )
