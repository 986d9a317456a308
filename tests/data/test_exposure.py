import numpy as np
import pytest
import torch

from dbrnet.data.loading import normalise_exposure, normalise_exposure_batch


def test_a_normalised_image_does_not_know_its_exposure() -> None:
    image = np.random.default_rng(0).integers(0, 52, (36, 44, 3), dtype=np.uint8)
    found = normalise_exposure(image)
    assert found.dtype == np.uint8
    assert found.mean() == pytest.approx(128, abs=0.5)
    assert found.std() == pytest.approx(32, abs=0.5)
    assert np.array_equal(found, normalise_exposure(2 * image))
    assert np.array_equal(found, normalise_exposure(image + 90))


def test_a_flat_image_is_not_stretched_as_if_it_had_content() -> None:
    flat = np.full((8, 9, 3), 77, np.uint8)
    flat[0, 0, 0] = 78
    assert np.abs(normalise_exposure(flat).astype(int) - 128).max() <= 7


def test_a_batch_is_normalised_image_by_image_as_in_training() -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(low, high, (20, 30, 3), dtype=np.uint8) for low, high in ((0, 9), (90, 256), (3, 4))]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    found = normalise_exposure_batch(batch).permute(0, 2, 3, 1).numpy()
    for image, expected in zip(found, images, strict=True):
        assert np.abs(image - normalise_exposure(expected)).max() <= 0.51
