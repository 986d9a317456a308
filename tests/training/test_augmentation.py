import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbrnet.training.augmentation import Augmentation

GREY = (100.0, 100.0, 100.0)
SIDE = st.integers(8, 90)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(SIDE, SIDE),
    crop=st.tuples(SIDE, SIDE),
    scale=st.tuples(st.floats(0.5, 1.0), st.floats(1.0, 2.5)),
    ids=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_keep_to_their_ids(
    size: tuple[int, int], crop: tuple[int, int], scale: tuple[float, float], ids: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array(ids, np.uint8), size)
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    out_image, out_mask = Augmentation(crop, scale, flip=True, fill=GREY)(image, mask, seed)
    assert out_image.shape == (*crop, 3)
    assert out_mask.shape == crop
    assert out_image.dtype == out_mask.dtype == np.uint8
    assert set(np.unique(out_mask)) <= {*ids, 255}


def make_image() -> tuple[np.ndarray, np.ndarray]:
    """A gradient in both directions, so that a crop's place shows, and a mask that follows its columns."""
    y, x = np.mgrid[0:64, 0:64].astype(np.uint8)
    return np.stack([3 * x, 3 * y, 0 * x], axis=2), (x // 8).astype(np.uint8)


def test_same_seed_same_result_and_another_seed_another() -> None:
    image, mask = make_image()
    augment = Augmentation((48, 48), (0.5, 2.5), flip=True, fill=GREY)
    first, again, other = augment(image, mask, 1), augment(image, mask, 1), augment(image, mask, 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])


def test_image_and_mask_move_together() -> None:
    image, mask = make_image()
    augment = Augmentation((48, 48), (0.5, 2.5), flip=True, fill=GREY)
    for seed in range(20):
        out_image, out_mask = augment(image, mask, seed)
        inside = out_mask != 255
        expected = out_image[..., 0].astype(int) // 24
        assert np.mean(np.abs(expected - out_mask)[inside] > 0) < 0.12  # but for the columns' borders
        assert np.array_equal(inside, (out_image != 100).any(axis=2))  # the padding is the fill, and ignored


def test_scale_place_and_flips_are_drawn_independently() -> None:
    # One stream for all of them would tie the place of the crop to the scale.
    height = 64
    image, mask = make_image()
    augment = Augmentation((16, 16), (1.0, 2.0), flip=False, fill=GREY)
    slopes, lefts, tops = [], [], []
    for seed in range(300):
        out = augment(image, mask, seed)[0].astype(float)
        slope = (out[0, -1, 0] - out[0, 0, 0]) / 15  # 3 / scale
        free = height - 16 * slope / 3
        slopes.append(slope)
        lefts.append(out[0, 0, 0] / 3 / free)
        tops.append(out[0, 0, 1] / 3 / free)
    correlation = np.abs(np.corrcoef([slopes, lefts, tops]) - np.eye(3))
    assert correlation.max() < 0.25
    assert np.std(lefts) == pytest.approx(12**-0.5, abs=0.05)  # uniform over the places there are


def test_without_flip_left_stays_left() -> None:
    image, mask = make_image()
    augment = Augmentation((32, 32), (1.0, 1.0), flip=False, fill=GREY)
    assert all(augment(image, mask, seed)[0][0, :, 0].argmax() == 31 for seed in range(10))
    augment = Augmentation((32, 32), (1.0, 1.0), flip=True, fill=GREY)
    assert {int(augment(image, mask, seed)[0][0, :, 0].argmax()) for seed in range(20)} == {0, 31}
