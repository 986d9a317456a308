"""Images and masks as batches, the same for the same seed, from any batch of any epoch on.

The order of an epoch depends on (seed, epoch) alone and the augmentation of an image on (seed, epoch, its
place in the training split), so that a resumed run sees what the uninterrupted one would have seen, with
any number of workers.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from dbrnet.data.dataset import Dataset, Image, Mask
from dbrnet.data.exposure import normalise_exposure
from dbrnet.errors import UserError
from dbrnet.progress import progress

CACHE_BYTES = 2**30  # decoded images of one split are kept in memory up to this
STATISTICS_IMAGES = 1000  # the mean and deviation are measured on so many images at most

Augment = Callable[[Image, Mask, int], tuple[Image, Mask]]  # the last argument is the seed
Triple = tuple[float, float, float]


class Images:
    """The decoded images of one split, normalised if asked for and resized to `image_size` if given, their
    masks at native size.

    Decoding costs more than augmenting, so a split that fits in `CACHE_BYTES` is decoded once.
    """

    def __init__(
        self, dataset: Dataset, ids: Sequence[str], image_size: tuple[int, int] | None, *, normalised: bool = False
    ) -> None:
        unknown = [identity for identity in ids if identity not in dataset.by_id]
        if unknown:
            raise UserError(f"the split names {unknown[0]}, which the dataset does not hold; run `dbrnet split` again")
        self.samples = [dataset.by_id[identity] for identity in ids]
        self.image_size = image_size
        self.normalised = normalised
        self._dataset = dataset
        self._cache: dict[int, tuple[Image, Mask]] | None = {} if self._bytes() <= CACHE_BYTES else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image, Mask]:
        """The image [H, W, 3] and its mask at native size."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        sample = self.samples[index]
        image, mask = self._dataset.pair(sample)
        if image.shape[:2] != mask.shape:
            raise UserError(f"{sample.id}: the mask is {mask.shape}, the image {image.shape[:2]}; ingest again")
        if self.normalised:
            image = normalise_exposure(image)
        if self.image_size is not None:
            image = resize_image(image, self.image_size)
        if self._cache is not None:
            self._cache[index] = image, mask
        return image, mask

    def warm(self) -> None:
        """Fill the cache, if there is one, so that worker processes share it instead of filling their own.

        Of images that lie elsewhere each process fetches those that it reads, and no others.
        """
        if self._cache is not None and self._dataset.at_hand:
            for index in progress(range(len(self)), len(self), "decoding"):
                self[index]

    def prefetch(self, indices: Iterable[int]) -> None:
        """Be told which images will be read next, in this order, so that they can be on their way."""
        kept = {} if self._cache is None else self._cache
        self._dataset.prefetch(self.samples[index] for index in indices if index not in kept)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image as the network sees it."""
        sample = self.samples[index]
        return self.image_size or (sample.height, sample.width)

    def statistics(self) -> tuple[Triple, Triple]:
        """Mean and standard deviation of each channel's pixels / 255, on evenly spaced images."""
        count, total, squares = 0, np.zeros(3, np.int64), np.zeros(3, np.int64)
        chosen = range(0, len(self), -(-len(self) // STATISTICS_IMAGES))
        self.prefetch(chosen)
        for index in progress(chosen, len(chosen), "measuring the pixels"):
            pixels = self[index][0].reshape(-1, 3)
            count += len(pixels)
            for channel in range(3):  # by value, not by pixel: exact and fast
                counts = np.bincount(pixels[:, channel], minlength=256)
                total[channel] += counts @ np.arange(256)
                squares[channel] += counts @ np.arange(256) ** 2
        mean = total / count / 255
        deviation = np.sqrt(np.maximum(squares / count / 255**2 - mean**2, 1e-6))  # a flat image has none
        return _triple(mean), _triple(deviation)

    def _bytes(self) -> int:
        return sum(
            3 * int(np.prod(self.size(index))) + sample.height * sample.width
            for index, sample in enumerate(self.samples)
        )


def resize_image(image: Image, size: tuple[int, int]) -> Image:
    """Resize to (height, width) bilinearly, pixel centres aligned: what the exported graph does."""
    height, width = size
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)


def resize_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """Resize class ids to (height, width) by nearest neighbour, aligned with `resize_image`."""
    height, width = size
    return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT).astype(np.uint8, copy=False)


@dataclass(frozen=True)
class Augmented(data.Dataset[tuple[Tensor, Tensor]]):
    """One epoch's view of the training split: augmented images uint8 [H, W, 3] with masks uint8 [H, W]."""

    images: Images
    augment: Augment
    seed: int
    epoch: int

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, Tensor]]:
        """A batch, as a loader asks for it."""
        if data.get_worker_info():  # else the loader has said what comes in the whole epoch
            self.images.prefetch(indices)
        return [self[index] for index in indices]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, mask = self.images[index]
        if image.shape[:2] != mask.shape:
            mask = resize_mask(mask, (image.shape[0], image.shape[1]))
        seed = int(np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0])
        image, mask = self.augment(image, mask, seed)
        return torch.from_numpy(np.ascontiguousarray(image)), torch.from_numpy(np.ascontiguousarray(mask))


def epoch_batches(defect_free: Sequence[bool], share: float, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The epoch's batches of indices: the images in random order, the rest of the last batch left out.

    `defect_free` says it of each image; an epoch sees `share` of those (0 to 1), others in each epoch.
    Where there are fewer images than a batch holds, one batch of them all.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(defect_free)).tolist()
    free = [index for index in order if defect_free[index]]
    left_out = set(free[round(share * len(free)) :])
    order = [index for index in order if index not in left_out]
    size = min(batch_size, len(order))
    return [order[start : start + size] for start in range(0, len(order) - size + 1, size)] if order else []


def load_batches(samples: Augmented, batches: list[list[int]], workers: int) -> data.DataLoader[tuple[Tensor, Tensor]]:
    """A loader of `batches`, in their order, images uint8 [N, H, W, 3] and masks uint8 [N, H, W]."""
    if not workers:  # else each worker process fetches its batches
        samples.images.prefetch(index for batch in batches for index in batch)
    return data.DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, so that loading does not draw from the global one
    )


def _triple(values: np.ndarray) -> Triple:
    first, second, third = (float(value) for value in values)
    return first, second, third


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Images uint8 [N, H, W, 3] to what the network reads: float [N, 3, H, W], (pixel / 255 - mean) / std.

    `mean` and `std` are [3] and lie on the images' device.
    """
    return ((images.float() / 255 - mean) / std).permute(0, 3, 1, 2)
