"""The factor that images are enlarged by, so that the thinnest defects are seen on the network's output grid."""

import logging

import cv2
import numpy as np

from dbrnet.data.loading import Images
from dbrnet.progress import progress
from dbrnet.training.pasting import find_defects

log = logging.getLogger(__name__)

THICK = 5  # pixels: logits lie on an eighth of the image, and thinner defects are lost between them
LARGEST = 2.0
LARGEST_AREA = 2**21  # pixels of an enlarged image: the time that an image takes grows with them
EXAMINED = 500  # images with defects, evenly spaced


def choose_zoom(images: Images) -> float:
    """The least quarter from 1 to `LARGEST` at which the thinnest class's median defect is `THICK` pixels thick.

    Smaller, but not below 1, where half the images would exceed `LARGEST_AREA`.
    """
    marked = [index for index, sample in enumerate(images.samples) if sample.classes]
    chosen = marked[:: -(-len(marked) // EXAMINED) or 1]
    images.prefetch(chosen)
    thickness: dict[int, list[float]] = {}
    for index in progress(chosen, len(chosen), "measuring the defects"):
        mask = images[index][1]
        for defect in find_defects(mask, int(mask.max()) + 1):
            region = np.pad(defect.region, 1).astype(np.uint8)
            widest = float(cv2.distanceTransform(region, cv2.DIST_L2, cv2.DIST_MASK_PRECISE).max())
            thickness.setdefault(defect.label, []).append(2 * widest - 1)
    thinnest = min((float(np.median(values)) for values in thickness.values()), default=float(THICK))
    wanted = np.ceil(4 * THICK / max(thinnest, 1)) / 4
    area = np.median([sample.height * sample.width for sample in images.samples])
    affordable = np.floor(4 * np.sqrt(LARGEST_AREA / area)) / 4
    zoom = float(max(1, min(wanted, affordable, LARGEST)))
    log.info("train.zoom auto: %g (the thinnest class's defects are %.0f pixels thick)", zoom, thinnest)
    return zoom
