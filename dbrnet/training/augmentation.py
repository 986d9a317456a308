"""Random changes of light and of direction of an image with its mask. The only module that imports albumentations."""

import albumentations as A
import numpy as np

from dbrnet.data.dataset import Image, Mask
from dbrnet.training.recipe import Symmetries

SYMMETRIES: dict[Symmetries, tuple[A.BasicTransform, ...]] = {
    "none": (),
    "flips": (A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)),
    "all": (A.D4(p=1.0),),
}
# nnU-Net's probabilities; the changes are those that a camera, its lamps and its lens make from day to day.
PHOTOMETRIC = (
    A.RandomBrightnessContrast(brightness_limit=0.1, contrast_limit=0.25, p=0.3),
    A.RandomGamma(gamma_limit=(75, 135), p=0.15),
    A.GaussianBlur(blur_limit=0, sigma_limit=(0.4, 1.0), p=0.1),
    A.GaussNoise(std_range=(0.01, 0.04), per_channel=False, p=0.15),
)


class Augmentation:
    """Flip or turn, and change the light, at random; the same for the same seed.

    `symmetries`: the directions that an image may as well have been taken in. `photometric`: whether brightness,
    contrast, gamma, sharpness and noise change too.
    """

    def __init__(self, symmetries: Symmetries, *, photometric: bool) -> None:
        self._transforms = A.Compose([*SYMMETRIES[symmetries], *(PHOTOMETRIC if photometric else ())])

    def __call__(self, image: Image, mask: Mask, seed: int) -> tuple[Image, Mask]:
        """Augment an image [H, W, 3] and its mask [H, W]; "all" needs a square."""
        # `Compose.set_random_seed` gives every transform the same stream, which ties one change to another.
        # Each transform gets its own seed instead.
        transforms = self._transforms.transforms
        seeds = np.random.SeedSequence(seed).generate_state(len(transforms)) if transforms else ()
        for transform, own in zip(transforms, seeds, strict=True):
            transform.set_random_seed(int(own))
        result = self._transforms(image=image, mask=mask)
        return result["image"], result["mask"]
