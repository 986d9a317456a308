import numpy as np
import pytest

from dbrnet.data.dataset import Image, Mask
from dbrnet.training.augmentation import Augmentation
from dbrnet.training.recipe import Symmetries


def make_image() -> tuple[Image, Mask]:
    """A gradient in both directions, so that every direction shows, and a mask that follows its columns."""
    y, x = np.mgrid[0:32, 0:32].astype(np.uint8)
    return np.stack([3 * x, 3 * y, 0 * x], axis=2), (x // 8).astype(np.uint8)


@pytest.mark.parametrize(("symmetries", "count"), [("none", 1), ("flips", 4), ("all", 8)])
def test_the_directions_that_are_seen(symmetries: Symmetries, count: int) -> None:
    image, mask = make_image()
    augment = Augmentation(symmetries, photometric=False)
    seen: dict[bytes, list[int]] = {}
    for seed in range(120):
        turned, turned_mask = augment(image, mask, seed)
        assert np.array_equal(turned[..., 0] // 24, turned_mask)  # image and mask turn together
        seen.setdefault(turned.tobytes(), []).append(seed)
    assert len(seen) == count
    assert all(len(seeds) > 40 / count for seeds in seen.values())


def test_photometric_changes_leave_the_mask_alone() -> None:
    image, mask = make_image()
    augment = Augmentation("none", photometric=True)
    results = [augment(image, mask, seed) for seed in range(60)]
    assert all(np.array_equal(mask, changed) for _, changed in results)
    changed = [not np.array_equal(image, one) for one, _ in results]
    assert 20 < sum(changed) < 60  # some images stay as they are
    means = [one.mean() for one, _ in results]
    assert 5 < max(means) - min(means) < 60
    assert all(one.dtype == np.uint8 and one.shape == image.shape for one, _ in results)


def test_same_seed_same_result_and_another_seed_another() -> None:
    image, mask = make_image()
    augment = Augmentation("all", photometric=True)
    for seed in range(10):
        first, again = augment(image, mask, seed), augment(image, mask, seed)
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert len({augment(image, mask, seed)[0].tobytes() for seed in range(30)}) > 10


def test_flips_and_light_are_drawn_independently() -> None:
    # One stream for all of them would tie the direction to the light.
    image, mask = make_image()
    augment = Augmentation("flips", photometric=True)
    flipped, brightened = [], []
    for seed in range(400):
        turned, turned_mask = augment(image, mask, seed)
        flipped.append(turned_mask[0, 0] == 3)
        brightened.append(turned.mean())
    assert abs(np.corrcoef(flipped, brightened)[0, 1]) < 0.2
