import numpy as np
import pytest

from dbrnet.data.surfaces import DEFECT_FREE, KINDS, MOST_COVERED, draw


def drawn(seed: int, height: int = 96, width: int = 128) -> tuple[np.ndarray, np.ndarray]:
    return draw(np.random.default_rng(seed), height, width)


def test_the_same_seed_draws_the_same_image() -> None:
    for one, again in zip(drawn(3), drawn(3), strict=True):
        assert np.array_equal(one, again)
    assert not np.array_equal(drawn(3)[0], drawn(4)[0])


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 300), (200, 70)])
def test_any_size(height: int, width: int) -> None:
    image, mask = drawn(0, height, width)
    assert (image.shape, image.dtype) == ((height, width, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((height, width), np.uint8)
    assert (image[..., 0] == image[..., 2]).all()


def test_what_is_drawn() -> None:
    images, masks = zip(*(drawn(seed) for seed in range(300)), strict=True)
    free = [not mask.any() for mask in masks]
    assert np.mean(free) == pytest.approx(DEFECT_FREE, abs=0.1)  # some defects come to lie beside the metal
    assert max((mask > 0).mean() for mask in masks) <= MOST_COVERED
    for label in range(1, len(KINDS) + 1):  # every kind often enough to be learnt
        assert sum((mask == label).any() for mask in masks) > 20, KINDS[label - 1]
    assert set(np.unique(np.stack(masks))) == set(range(len(KINDS) + 1))
    means = np.array([image.mean() for image in images])
    assert np.percentile(means, 95) - np.percentile(means, 5) > 80  # from dark to bright
    assert 0.02 < np.mean([(image < 13).mean() > 0.1 for image in images]) < 0.4  # black beside the metal


def test_a_defect_differs_from_the_metal_around_it() -> None:
    contrasts = []
    for seed in range(200):
        image, mask = drawn(seed)
        if mask.any() and not mask.all():
            grey = image[..., 0].astype(float)
            inside, outside = grey[mask > 0], grey[(mask == 0) & (grey > 12)]
            if outside.std() == 0:
                continue  # only overexposed metal is left
            contrasts.append(abs(inside.mean() - outside.mean()) / outside.std() + inside.std() / outside.std())
    assert np.median(contrasts) > 1.5
