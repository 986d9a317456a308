"""Masks drawn over their images, for reports and predictions."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo, Image, Mask

OPACITY = 0.45
ROW_HEIGHT = 16  # pixels of one legend entry
WHITE = (255, 255, 255)


def colorize(mask: Mask, classes: Sequence[ClassInfo]) -> Image:
    """The mask [H, W] as an image in its classes' colours, RGB [H, W, 3]."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = [info.color for info in classes]
    return palette[mask]


def blend(image: Image, mask: Mask, classes: Sequence[ClassInfo], opacity: float = OPACITY) -> Image:
    """The image with its defects tinted and outlined in their colours; the background stays as it is.

    The image is uint8 RGB [H, W, 3], and the mask uint8 [H, W] of the same size; returns a new uint8 RGB [H, W, 3].
    """
    colors = colorize(mask, classes)
    tinted = cv2.addWeighted(colors, opacity, image, 1 - opacity, 0)
    core = cv2.erode(mask, np.ones((3, 3), np.uint8)) == cv2.dilate(mask, np.ones((3, 3), np.uint8))
    tinted[~core] = colors[~core]
    return np.where((mask == 0)[..., None], image, tinted).astype(np.uint8, copy=False)


def add_legend(image: Image, classes: Sequence[ClassInfo], present: NDArray[np.integer]) -> Image:
    """The image [H, W, 3] with a strip under it that names the defect classes whose ids are `present`."""
    entries = [classes[int(index)] for index in present if index != 0]
    if not entries:
        return image
    strip = np.full((ROW_HEIGHT * len(entries), image.shape[1], 3), 24, np.uint8)
    for row, info in enumerate(entries):
        top = row * ROW_HEIGHT
        cv2.rectangle(strip, (4, top + 4), (12, top + 12), info.color, cv2.FILLED)
        cv2.putText(strip, info.name, (18, top + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, WHITE, 1, cv2.LINE_AA)
    return np.concatenate([image, strip])
