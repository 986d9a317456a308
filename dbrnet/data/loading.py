"""Images and masks as batches, and the preprocessing that training and the exported graph must share.

Loading is reproducible from any batch of any epoch on. The order of an epoch depends on (seed, epoch) alone,
and the augmentation of an image on (seed, epoch, its place in the training split). A resumed run therefore
sees what an uninterrupted one would have seen, with any number of workers.

`normalise_exposure` removes an image's exposure. Images of one line differ in light more than defects differ
from the metal; a network that reads raw grey values may then learn nothing for thousands of iterations
(docs/results.md, MT).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from dbrnet.data.dataset import Dataset, Image, Mask
from dbrnet.errors import UserError
from dbrnet.progress import progress

CACHE_BYTES = 2**30  # decoded images of one split are kept in memory up to this
STATISTICS_IMAGES = 1000  # mean and deviation are measured on at most this many images
MEAN, DEVIATION = 128, 32  # grey values; four deviations either way fit into 8 bits
LEAST_DEVIATION = 5  # grey values; a flatter image is not stretched as if it had content

Augment = Callable[[Image, Mask, int], tuple[Image, Mask]]  # the last argument is the seed
Triple = tuple[float, float, float]


class Images:
    """The decoded images of one split, with their masks at native size.

    Images are exposure-normalised where `normalised` and resized where `image_size` (height, width) is given.
    Decoding costs more than augmenting, so a split that fits in `CACHE_BYTES` is decoded once. Raises
    `UserError` where the dataset lacks one of `ids`, and on access where a mask does not fit its image.
    """

    def __init__(
        self, dataset: Dataset, ids: Sequence[str], image_size: tuple[int, int] | None, *, normalised: bool = False
    ) -> None:
        try:
            self.samples = [dataset.by_id[id_] for id_ in ids]
        except KeyError as error:
            raise UserError(
                f"the split names {error.args[0]}, which the dataset does not hold; run `dbrnet split` again"
            ) from None
        self.image_size = image_size
        self.normalised = normalised
        self._dataset = dataset
        images = sum(3 * int(np.prod(self.size(index))) for index in range(len(self)))
        masks = sum(sample.height * sample.width for sample in self.samples)
        self._cached = images + masks <= CACHE_BYTES
        self._cache: dict[int, tuple[Image, Mask]] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Image, Mask]:
        """The image [H, W, 3] and its mask at native size."""
        if index in self._cache:
            return self._cache[index]
        sample = self.samples[index]
        image, mask = self._dataset.pair(sample)
        if image.shape[:2] != mask.shape:
            raise UserError(f"{sample.id}: the mask is {mask.shape}, the image {image.shape[:2]}; ingest again")
        if self.normalised:
            image = normalise_exposure(image)
        if self.image_size is not None:
            image = resize_image(image, self.image_size)
        if self._cached:
            self._cache[index] = image, mask
        return image, mask

    def warm(self) -> None:
        """Fill the cache, if there is one, so that worker processes share it instead of filling their own.

        A remote dataset is left alone: each process fetches only what it reads.
        """
        if self._cached and self._dataset.local:
            for index in progress(range(len(self)), len(self), "decoding"):
                self[index]

    def prefetch(self, indices: Iterable[int]) -> None:
        """Announce which images will be read next, in this order, so that a remote dataset fetches ahead."""
        # The generator looks at the cache when each index is due, not now.
        self._dataset.prefetch(self.samples[index] for index in indices if index not in self._cache)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of the image as the network sees it."""
        sample = self.samples[index]
        return self.image_size or (sample.height, sample.width)

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
    """Bring the grey values of an image [H, W, 3] to one mean and deviation, all channels alike."""
    mean, deviation = cv2.meanStdDev(image.reshape(len(image), -1))
    scale = DEVIATION / max(float(deviation[0, 0]), LEAST_DEVIATION)
    levels = np.arange(256) * scale + (MEAN - float(mean[0, 0]) * scale)
    return cv2.LUT(image, np.clip(np.rint(levels), 0, 255).astype(np.uint8)).astype(np.uint8, copy=False)


def normalise_exposure_batch(images: Tensor) -> Tensor:
    """`normalise_exposure` of each of [N, 3, H, W], grey values as floats, without the rounding to 8 bits.

    Rounding moves a value by a 64th of a deviation at most. In the graph it would turn one runtime's last
    digit into another's next level.
    """
    centred = images - _image_mean(images)
    deviation = _image_mean(centred.square()).sqrt()
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


def resize_image(image: Image, size: tuple[int, int]) -> Image:
    """Resize to (height, width) bilinearly, pixel centres aligned, as the exported graph does."""
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
        """A batch of samples, as the loader requests it."""
        if data.get_worker_info():  # in the main process `load_batches` announced the whole epoch
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
    """The epoch's batches of indices: the images in random order, an incomplete last batch left out.

    `defect_free` flags the images without a defect. An epoch sees `share` of those (0 to 1), others in each
    epoch. Fewer images than `batch_size` make one batch.
    """
    order = np.random.default_rng([seed, epoch]).permutation(len(defect_free)).tolist()
    free = [index for index in order if defect_free[index]]
    left_out = set(free[round(share * len(free)) :])
    order = [index for index in order if index not in left_out]
    size = min(batch_size, len(order))
    return [order[start : start + size] for start in range(0, len(order) - size + 1, size)] if order else []


def load_batches(samples: Augmented, batches: list[list[int]], workers: int) -> data.DataLoader[tuple[Tensor, Tensor]]:
    """A loader of `batches`, in their order: images uint8 [N, H, W, 3] and masks uint8 [N, H, W]."""
    if not workers:  # worker processes announce their own batches
        samples.images.prefetch(index for batch in batches for index in batch)
    return data.DataLoader(
        samples,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # its own, so that loading does not draw from the global one
    )
