from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dbrnet.data import loading
from dbrnet.data.dataset import Dataset, Sample
from dbrnet.data.loading import BLACK, Images, exposure_levels, normalise, normalise_exposure, normalise_exposure_batch
from dbrnet.errors import UserError
from tests.data.conftest import make_dataset

IDS = [f"p{index}" for index in range(7)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rng = np.random.default_rng(0)
    samples = []
    for index, name in enumerate(IDS):
        height, width = 30 + index, 44
        image = rng.integers(0, 60 + 25 * index, (height, width, 3), dtype=np.uint8)
        mask = rng.integers(0, 3, (height, width), dtype=np.uint8)
        cv2.imwrite(str(tmp_path / f"{name}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(tmp_path / f"{name}-mask.png"), mask)
        samples.append(Sample(name, f"{name}.png", f"{name}-mask.png", height, width, (1, 2), name, name, name))
    return make_dataset(tmp_path, tuple(samples), ("background", "a", "b"))


@pytest.mark.parametrize("cached", [True, False])
def test_images_equal_the_datasets(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, cached: bool) -> None:
    if not cached:
        monkeypatch.setattr(loading, "CACHE_BYTES", 10)
    images = Images(dataset, IDS)
    images.warm()
    for index, sample in enumerate(dataset.samples):
        image, mask = images[index]
        assert np.array_equal(image, dataset.image(sample))
        assert np.array_equal(mask, dataset.mask(sample))
    assert (images[0][0] is images[0][0]) == cached


@pytest.mark.parametrize("zoom", [0.5, 1.0, 1.25, 2.0])
def test_an_image_is_zoomed_as_the_exported_graph_does(dataset: Dataset, zoom: float) -> None:
    image = dataset.image(dataset.samples[1])
    zoomed = loading.zoom_image(image, zoom)
    size = loading.zoomed_size(31, 44, zoom)
    assert zoomed.shape == (*size, 3)
    assert size == (int(31 * zoom + 0.5), int(44 * zoom + 0.5))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), size=size, mode="bilinear", align_corners=False
    )[0].permute(1, 2, 0)
    assert np.abs(expected.numpy() - zoomed).max() <= 1


def test_images_are_exposure_normalised_on_request(dataset: Dataset) -> None:
    plain, normalised = Images(dataset, IDS), Images(dataset, IDS, normalised=True)
    assert not np.array_equal(plain[0][0], normalised[0][0])
    raw = dataset.image(dataset.samples[0])
    assert np.array_equal(normalised[0][0], normalise_exposure(raw))
    again = Images(dataset, IDS, normalised=True)
    assert again.black(0) == exposure_levels(raw)[BLACK] != BLACK  # also before it was read
    assert plain.black(0) == BLACK


@pytest.mark.parametrize("size", [(100, 100), (20, 20), (60, 60), (30, 30), (23, 47)])
def test_resizing_a_mask_does_not_shift_it(size: tuple[int, int]) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 1
    resized = loading.resize_mask(mask, size)
    assert np.array_equal(resized, resized[::-1, ::-1])  # symmetric before, symmetric after
    assert set(np.unique(resized)) == {0, 1}


def test_statistics_equal_a_plain_count(dataset: Dataset) -> None:
    mean, std = Images(dataset, IDS).statistics()
    pixels = np.concatenate([dataset.image(sample).reshape(-1, 3) for sample in dataset.samples]) / 255
    assert mean == pytest.approx(pixels.mean(axis=0))
    assert std == pytest.approx(pixels.std(axis=0))
    assert Images(dataset, IDS[:3]).statistics()[0] != pytest.approx(mean, rel=0.01)  # of its own split only
    images = torch.from_numpy(dataset.image(dataset.samples[0]))[None]
    normal = normalise(images, torch.tensor(mean), torch.tensor(std))
    assert normal.shape == (1, 3, 30, 44)
    assert normal[0, 2, 7, 9].item() == pytest.approx((images[0, 7, 9, 2].item() / 255 - mean[2]) / std[2], rel=1e-4)


def test_unknown_ids_and_masks_of_another_size_are_refused(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="the split names elsewhere"):
        Images(dataset, ["p1", "elsewhere"])
    cv2.imwrite(str(dataset.root / "p1-mask.png"), np.zeros((5, 5), np.uint8))
    with pytest.raises(UserError, match="p1: the mask is"):
        Images(dataset, IDS)[1]


def test_normalising_removes_the_exposure_and_does_not_stretch_a_flat_image() -> None:
    image = np.random.default_rng(0).integers(20, 120, (36, 44, 3), dtype=np.uint8)
    normalised = normalise_exposure(image)
    assert normalised.dtype == np.uint8
    assert normalised.mean() == pytest.approx(128, abs=0.5)
    assert normalised.std() == pytest.approx(32, abs=0.5)
    assert np.array_equal(normalised, normalise_exposure(2 * image))
    flat = np.full((8, 9, 3), 77, np.uint8)
    flat[0, 0, 0] = 78
    assert np.abs(normalise_exposure(flat).astype(int) - 128).max() <= 7  # it is not stretched


def test_what_is_black_beside_the_metal_does_not_count() -> None:
    metal = np.random.default_rng(0).integers(60, 120, (36, 44, 3), dtype=np.uint8)
    edge = np.concatenate([np.full((36, 200, 3), 9, np.uint8), metal], axis=1)
    assert np.array_equal(normalise_exposure(edge)[:, 200:], normalise_exposure(metal))
    assert not normalise_exposure(edge)[:, :200].any()
    dark = np.full((36, 44, 3), 3, np.uint8)  # it is all there is
    assert np.abs(normalise_exposure(dark).astype(int) - 128).max() <= 1


def test_batch_is_normalised_image_by_image_as_in_training() -> None:
    rng = np.random.default_rng(1)
    images = [
        rng.integers(low, high, (20, 30, 3), dtype=np.uint8) for low, high in ((0, 9), (90, 256), (3, 4), (0, 40))
    ]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    normalised = normalise_exposure_batch(batch).permute(0, 2, 3, 1).numpy()
    for found, image in zip(normalised, images, strict=True):
        assert np.abs(found - normalise_exposure(image)).max() <= 0.51
