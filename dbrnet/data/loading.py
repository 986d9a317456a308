"""Images with their masks, and the preprocessing that training and the exported graph must share.

`normalise_exposure` removes an image's exposure. Images of one line differ in light more than defects differ
from the metal; a network that reads raw grey values may then learn nothing for thousands of iterations
(docs/learning.md).
"""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dbrnet.data.dataset import Dataset, Image, Mask
from dbrnet.errors import UserError
from dbrnet.progress import progress

CACHE_BYTES = 2**30  # decoded images of one split are kept in memory up to this
STATISTICS_IMAGES = 1000  # mean and deviation are measured on at most this many images
MEAN, DEVIATION = 128, 32  # grey values; four deviations either way fit into 8 bits
LEAST_DEVIATION = 5  # grey values; a flatter image is not stretched as if it had content
BLACK = 12  # grey values; pixels up to it in all channels lie beside the metal, and say nothing of its exposure
LEAST_METAL = 0.02  # share of an image that must be brighter, or all of its pixels count

Triple = tuple[float, float, float]


class Images:
    """The decoded images of one split, with their masks at native size.

    Images are exposure-normalised where `normalised`. Decoding costs more than augmenting, so a split that fits in
    `CACHE_BYTES` is decoded once. Raises `UserError` where the dataset lacks one of `ids`, and on access where a mask
    does not fit its image.
    """

    def __init__(self, dataset: Dataset, ids: Sequence[str], *, normalised: bool = False) -> None:
        self.samples = dataset.named(ids)
        self.normalised = normalised
        self._dataset = dataset
        self.cached = sum(4 * sample.height * sample.width for sample in self.samples) <= CACHE_BYTES
        self._cache: dict[int, tuple[Image, Mask]] = {}
        self._black: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image, Mask]:
        """The image [H, W, 3] and its mask [H, W]."""
        if index in self._cache:
            return self._cache[index]
        sample = self.samples[index]
        image, mask = self._dataset.pair(sample)
        if image.shape[:2] != mask.shape:
            raise UserError(f"{sample.id}: the mask is {mask.shape}, the image {image.shape[:2]}; ingest again")
        if self.normalised:
            levels = exposure_levels(image)
            image, self._black[index] = _apply(levels, image), int(levels[BLACK])
        if self.cached:
            self._cache[index] = image, mask
        return image, mask

    def black(self, index: int) -> int:
        """The grey value up to which a pixel of the image, as it is given, lies beside the metal."""
        if self.normalised and index not in self._black:
            self[index]
        return self._black.get(index, BLACK)

    def warm(self) -> None:
        """Fill the cache, if there is one, so that worker processes share it instead of filling their own.

        A remote dataset is left alone: each process fetches only what it reads.
        """
        if self.cached and self._dataset.local:
            for index in progress(range(len(self)), len(self), "decoding"):
                self[index]

    def prefetch(self, indices: Iterable[int]) -> None:
        """Announce which images will be read next, in this order, so that a remote dataset fetches ahead."""
        # The generator looks at the cache when each index is due, not now.
        self._dataset.prefetch(self.samples[index] for index in indices if index not in self._cache)

    def statistics(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation of each channel's pixels / 255, on evenly spaced images."""
        count, total, squares = 0, np.zeros(3, np.int64), np.zeros(3, np.int64)
        indices = range(0, len(self), -(-len(self) // STATISTICS_IMAGES))
        self.prefetch(indices)
        for index in progress(indices, len(indices), "measuring the pixels"):
            pixels = self[index][0].reshape(-1, 3)
            count += len(pixels)
            for channel in range(3):  # by value, not by pixel: exact and fast
                counts = np.bincount(pixels[:, channel], minlength=256)
                total[channel] += counts @ np.arange(256)
                squares[channel] += counts @ np.arange(256) ** 2
        mean = total / count / 255
        deviation = np.sqrt(np.maximum(squares / count / 255**2 - mean**2, 1e-6))  # a flat image has none
        return cast(Triple, tuple(mean.tolist())), cast(Triple, tuple(deviation.tolist()))


def normalise_exposure(image: Image) -> Image:
    """Bring the grey values of the metal in an image [H, W, 3] to one mean and deviation, all channels alike.

    What is `BLACK` beside the metal does not count: of some images of a strip's edge it is nine tenths.
    """
    return _apply(exposure_levels(image), image)


def exposure_levels(image: Image) -> NDArray[np.uint8]:
    """What `normalise_exposure` makes of each grey value of the image, [256]."""
    metal = image.max(2) > BLACK
    if metal.mean() < LEAST_METAL:
        metal[:] = True
    mean, deviation = cv2.meanStdDev(image[metal])
    scale = DEVIATION / max(float(deviation[0, 0]), LEAST_DEVIATION)
    levels = np.arange(256) * scale + (MEAN - float(mean[0, 0]) * scale)
    return np.clip(np.rint(levels), 0, 255).astype(np.uint8)


def _apply(levels: NDArray[np.uint8], image: Image) -> Image:
    return cv2.LUT(image, levels).astype(np.uint8, copy=False)


def normalise_exposure_batch(images: Tensor) -> Tensor:
    """`normalise_exposure` of each of [N, 3, H, W], grey values as floats, without the rounding to 8 bits.

    Rounding moves a value by a 64th of a deviation at most. In the graph it would turn one runtime's last
    digit into another's next level.
    """
    metal = (reduce(torch.maximum, images.unbind(1)) > BLACK).to(images.dtype)[:, None]
    share = _image_mean(metal)
    metal = torch.maximum(metal, (share < LEAST_METAL).to(images.dtype))  # where it is all black, all of it
    share = _image_mean(metal)
    centred = images - _image_mean(images * metal) / share
    deviation = (_image_mean(centred.square() * metal) / share).sqrt()
    return (centred * (DEVIATION / deviation.clamp_min(LEAST_DEVIATION)) + MEAN).clamp(0, 255)


def _image_mean(images: Tensor) -> Tensor:
    # One axis at a time: over a million values at once ONNX Runtime's mean is wrong in the fifth digit,
    # which moved logits by .002 on strips of 256x1600.
    return images.mean(3, keepdim=True).mean(2, keepdim=True).mean(1, keepdim=True)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images uint8 [N, H, W, 3] to what the network reads: float [N, 3, H, W], (pixel / 255 - mean) / std.

    `mean` and `std` are [3] and lie on the images' device.
    """
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)


def zoomed_size(height: int, width: int, zoom: float) -> tuple[int, int]:
    """The size that an image of `height` x `width` is resized to; `zoom` is a multiple of a quarter.

    In whole numbers, so that the exported graph computes the same; halves are rounded up.
    """
    quarters = round(4 * zoom)
    return (height * quarters + 2) // 4, (width * quarters + 2) // 4


def zoom_image(image: Image, zoom: float) -> Image:
    """Resize bilinearly, pixel centres aligned, as the exported graph does."""
    if zoom == 1:
        return image
    height, width = zoomed_size(image.shape[0], image.shape[1], zoom)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize class ids to (height, width) by nearest neighbour, pixel centres aligned."""
    height, width = size
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8, copy=False)
