"""Defects as objects: cut out of their image, and pasted onto another (copy-paste, Ghiasi et al. 2021)."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Image, Mask

MARGIN = 6  # pixels around a defect that are cut out with it, to be blended
FEATHER = 1.5  # pixels, the deviation of the blending's blur
NEAR_EDGE = 12  # pixels: a defect nearer to a side of its image belongs there, and keeps its distance
TRIES = 10  # at a place where nothing speaks against the defect
LEAST_PIXELS = 4  # of a defect; smaller ones are specks of the labelling


@dataclass(frozen=True)
class Defect:
    """One connected region of one class."""

    label: int
    top: int
    left: int
    region: NDArray[np.bool_]  # [h, w], in the box that begins at (top, left)

    def pixel(self, random: np.random.Generator) -> tuple[int, int]:
        """Row and column of one of its pixels, in the image."""
        rows, columns = np.nonzero(self.region)
        chosen = int(random.integers(len(rows)))
        return self.top + int(rows[chosen]), self.left + int(columns[chosen])


def find_defects(mask: Mask, classes: int) -> list[Defect]:
    """The connected regions of each class but the background (id 0) in a mask [H, W] of class ids below `classes`."""
    found = []
    for label in np.unique(mask[(mask > 0) & (mask < classes)]).tolist():
        regions, ids, boxes, _ = cv2.connectedComponentsWithStats((mask == label).astype(np.uint8), connectivity=8)
        of_class = []
        for number in range(1, regions):
            left, top, width, height, pixels = boxes[number].tolist()
            region = ids[top : top + height, left : left + width] == number
            of_class.append((pixels, Defect(label, top, left, region)))
        large = [defect for pixels, defect in of_class if pixels >= LEAST_PIXELS]
        found += large or [defect for _, defect in of_class]
    return found


def paste(
    donor: Image, defect: Defect, image: Image, mask: Mask, black: int, random: np.random.Generator
) -> tuple[Image, Mask, Defect] | None:
    """Copies of `image` and `mask` with the defect of `donor` in them, and the defect at its new place.

    The defect takes the brightness and contrast of its new surroundings, channel by channel, and its rim is blended.
    It never covers another defect or what lies beside the metal (grey values up to `black`), and one at an edge of its
    image stays at that edge. None where no such place is found.
    """
    box = _with_margin(defect, donor)
    height, width = box.region.shape
    patch = donor[box.top : box.top + height, box.left : box.left + width].astype(np.float32)
    sound = ~cv2.dilate(box.region.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    if height > image.shape[0] or width > image.shape[1] or not sound.any():
        return None
    for _ in range(TRIES):
        top = _place(box.top, height, donor.shape[0], image.shape[0], random)
        left = _place(box.left, width, donor.shape[1], image.shape[1], random)
        rows, columns = slice(top, top + height), slice(left, left + width)
        here = image[rows, columns].astype(np.float32)
        if not mask[rows, columns].any() and (here.max(2) > black).mean() > 0.95:
            break
    else:
        return None
    before, after = patch[sound], here.reshape(-1, image.shape[2])
    contrast = (after.std(0) + 1) / (before.std(0) + 1)
    moved = (patch - before.mean(0)) * contrast.clip(0.5, 2) + after.mean(0)
    wide = cv2.dilate(box.region.astype(np.float32), np.ones((3, 3), np.uint8))
    share = cv2.GaussianBlur(wide, (0, 0), FEATHER)[..., None]
    pasted, labels = image.copy(), mask.copy()
    pasted[rows, columns] = (share * moved + (1 - share) * here).clip(0, 255).round().astype(np.uint8)
    labels[rows, columns][box.region] = defect.label
    return pasted, labels, Defect(defect.label, top, left, box.region)


def _with_margin(defect: Defect, image: Image) -> Defect:
    """The defect in a box larger by `MARGIN`, as far as the image reaches."""
    height, width = defect.region.shape
    top, left = max(0, defect.top - MARGIN), max(0, defect.left - MARGIN)
    bottom = min(image.shape[0], defect.top + height + MARGIN)
    right = min(image.shape[1], defect.left + width + MARGIN)
    padding = ((defect.top - top, bottom - defect.top - height), (defect.left - left, right - defect.left - width))
    return Defect(defect.label, top, left, np.pad(defect.region, padding))


def _place(start: int, length: int, before: int, after: int, random: np.random.Generator) -> int:
    """Where a span of `length` that began at `start` of `before` pixels begins among `after` pixels."""
    if start < NEAR_EDGE:
        return min(start, after - length)
    if before - start - length < NEAR_EDGE:
        return max(0, after - (before - start))
    return int(random.integers(after - length + 1))
