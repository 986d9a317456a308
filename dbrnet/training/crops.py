"""The training split as an endless series of augmented crops.

A crop depends on the seed and its place in the series alone. A resumed training therefore sees what an uninterrupted
one would have seen, with any number of loading processes.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data

from dbrnet.data.dataset import Image, Mask
from dbrnet.data.loading import Images
from dbrnet.evaluation.metrics import IGNORE_INDEX
from dbrnet.training.pasting import Defect, find_defects, paste
from dbrnet.training.sampling import Draw, Sampler

Augment = Callable[[Image, Mask, int], tuple[Image, Mask]]  # the last argument is the seed

MIDDLE = (0.2, 0.8)  # where in a crop laid over a defect the defect's pixel lies, as shares of its sides


class Series(Protocol):
    """An endless series of crops uint8 [H, W, 3] with masks uint8 [H, W], each a function of its place alone."""

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]: ...

    def prefetch(self, places: Sequence[int]) -> None:
        """Announce which will be asked for next."""


class Crops:
    """Crops of `images` uint8 [H, W, 3] with masks uint8 [H, W], by their place in the series.

    `size` is (height, width) in pixels, `zoom` the image's constant factor, and `scale` the least and the largest
    factor drawn on top of it. Masks are sampled by nearest neighbour and keep their ids. What lies outside the image
    is filled with `fill`, a value a channel, and ignored by the loss.
    """

    def __init__(
        self,
        images: Images,
        sampler: Sampler,
        augment: Augment,
        *,
        size: tuple[int, int],
        zoom: float,
        scale: tuple[float, float],
        fill: tuple[float, ...],
        classes: int,
        seed: int,
    ) -> None:
        self.images, self.sampler, self.augment = images, sampler, augment
        self.size, self.zoom, self.scale, self.fill = size, zoom, scale, fill
        self.classes, self.seed = classes, seed
        self._found: dict[int, list[Defect]] = {}

    def prefetch(self, places: Sequence[int]) -> None:
        """Announce which crops will be made next, so that a remote dataset fetches their images ahead."""
        draws = (self.sampler.draw(place) for place in places)
        self.images.prefetch(index for draw in draws for index in (draw.image, draw.donor) if index is not None)

    def __getitems__(self, places: list[int]) -> list[tuple[Tensor, Tensor]]:
        """A batch of crops, as the loader requests it."""
        if data.get_worker_info():  # in the main process `load_batches` announced all
            self.prefetch(places)
        return [self[place] for place in places]

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        random = np.random.default_rng([self.seed, 1, place])  # the sampler's draws are another stream
        draw = self.sampler.draw(place)
        image, mask, defect = self._draw_image(draw, random)
        factor = self.zoom * float(np.exp(random.uniform(*np.log(self.scale))))
        focus = None if defect is None else defect.pixel(random)
        corner = [
            self._begin(image.shape[axis], self.size[axis] / factor, None if focus is None else focus[axis], random)
            for axis in (0, 1)
        ]
        image, mask = self._cut(image, mask, corner, factor)
        image, mask = self.augment(image, mask, int(random.integers(2**32)))
        return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(np.ascontiguousarray(mask))

    def _draw_image(self, draw: Draw, random: np.random.Generator) -> tuple[Image, Mask, Defect | None]:
        """The image that is cropped, with its mask, and the defect that the crop is laid over."""
        image, mask = self.images[draw.image]
        if draw.label is None:
            return image, mask, None
        source = draw.image if draw.donor is None else draw.donor
        defects = [defect for defect in self._defects(source) if defect.label == draw.label]
        if not defects:
            return image, mask, None
        defect = defects[int(random.integers(len(defects)))]
        if draw.donor is None:
            return image, mask, defect
        donor, donor_mask = self.images[draw.donor]
        black = self.images.black(draw.image)
        return paste(donor, defect, image, mask, black, random) or (donor, donor_mask, defect)

    def _defects(self, index: int) -> list[Defect]:
        defects = self._found.get(index) or find_defects(self.images[index][1], self.classes)
        if self.images.cached:  # or else these would outgrow them
            self._found[index] = defects
        return defects

    def _begin(self, length: int, window: float, focus: int | None, random: np.random.Generator) -> float:
        """Where a window begins in an image's side of `length` pixels: it leaves the image only if it is larger."""
        low, high = min(0.0, length - window), max(0.0, length - window)
        if focus is None or length <= window:
            return float(random.uniform(low, high))
        return float(np.clip(focus + 0.5 - random.uniform(*MIDDLE) * window, low, high))

    def _cut(self, image: Image, mask: Mask, corner: Sequence[float], factor: float) -> tuple[Image, Mask]:
        """The window that begins at `corner` (row, column), enlarged by `factor` to the crop's size."""
        # Where the centres of the crop's rows and columns lie in the image.
        rows, columns = (
            start + (np.arange(side) + 0.5) / factor - 0.5 for start, side in zip(corner, self.size, strict=True)
        )
        matrix = np.array([[1 / factor, 0, columns[0]], [0, 1 / factor, rows[0]]])
        outside = np.logical_or.outer(
            *((each < -0.5) | (each >= side - 0.5) for each, side in zip((rows, columns), mask.shape, strict=True))
        )

        def warp(plane: Image | Mask, interpolation: int) -> NDArray[np.uint8]:
            flags = interpolation | cv2.WARP_INVERSE_MAP
            warped = cv2.warpAffine(plane, matrix, self.size[::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
            return warped.astype(np.uint8, copy=False)

        image, mask = warp(image, cv2.INTER_LINEAR), warp(mask, cv2.INTER_NEAREST)
        image[outside], mask[outside] = self.fill, IGNORE_INDEX
        return image, mask


def load_batches(crops: Series, batches: Iterable[list[int]], workers: int) -> data.DataLoader[tuple[Tensor, Tensor]]:
    """A loader of `batches` of places, in their order: images uint8 [N, H, W, 3] and masks uint8 [N, H, W]."""
    if workers:
        cv2.setNumThreads(1)  # here, before they are forked: there is one of them for each core already
    else:  # loading processes announce their own batches
        batches = list(batches)
        crops.prefetch([place for batch in batches for place in batch])
    return data.DataLoader(
        cast("data.Dataset[tuple[Tensor, Tensor]]", crops),
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, so that loading does not draw from the global one
    )
