"""Random scale, crop and flips of an image with its mask. The only module that imports albumentations."""

import albumentations as A
import cv2
import numpy as np

from dbrnet.data.dataset import Image, Mask
from dbrnet.evaluation.metrics import IGNORE_INDEX


class Augmentation:
    """Scale, pad, crop and flip at random (paper, section 3.2), the same for the same seed.

    `crop` is (height, width) in pixels, `scale` the least and the largest factor. Masks are sampled by nearest
    neighbour: they keep their ids, and the padding is ignored by the loss. The image is padded with `fill`, the
    training split's mean in 0 to 255, which is 0 once normalised.
    """

    def __init__(
        self, crop: tuple[int, int], scale: tuple[float, float], *, flip: bool, fill: tuple[float, ...]
    ) -> None:
        height, width = crop
        flips = [A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)] if flip else []
        self._transforms = A.Compose(
            [
                A.RandomScale(
                    scale_limit=(scale[0] - 1, scale[1] - 1),
                    interpolation=cv2.INTER_LINEAR,
                    mask_interpolation=cv2.INTER_NEAREST_EXACT,  # INTER_NEAREST shifts by half a pixel
                    p=1.0,
                ),
                A.PadIfNeeded(
                    height, width, position="random", border_mode=cv2.BORDER_CONSTANT, fill=fill, fill_mask=IGNORE_INDEX
                ),
                A.RandomCrop(height, width),
                *flips,
            ]
        )

    def __call__(self, image: Image, mask: Mask, seed: int) -> tuple[Image, Mask]:
        """Augment an image [H, W, 3] and its mask [H, W] to the size of the crop."""
        # `Compose.set_random_seed` gives every transform the same stream, which ties the place of the crop
        # to the scale. Each transform gets its own seed instead.
        transforms = self._transforms.transforms
        seeds = np.random.SeedSequence(seed).generate_state(len(transforms))
        for transform, own in zip(transforms, seeds, strict=True):
            transform.set_random_seed(int(own))
        result = self._transforms(image=image, mask=mask)
        return result["image"], result["mask"]
