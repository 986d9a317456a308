from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dbrnet.data import loading
from dbrnet.data.dataset import Dataset, Image, Mask, Sample
from dbrnet.data.loading import (
    Augmented,
    Images,
    epoch_batches,
    load_batches,
    normalise,
    normalise_exposure,
    normalise_exposure_batch,
)
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


def crop_at_random(image: Image, mask: Mask, seed: int) -> tuple[Image, Mask]:
    top, left = np.random.default_rng(seed).integers(0, 10, 2)
    return image[top : top + 20, left : left + 20], mask[top : top + 20, left : left + 20]


def batches_of(dataset: Dataset, epoch: int, *, seed: int = 5, skip: int = 0, workers: int = 0) -> list[torch.Tensor]:
    samples = Augmented(Images(dataset, IDS, None), crop_at_random, seed, epoch)
    loader = load_batches(samples, epoch_batches([False] * len(IDS), 1.0, 2, seed, epoch)[skip:], workers)
    return [torch.cat([images, masks[..., None]], dim=-1) for images, masks in loader]


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def batches(count: int, size: int, seed: int, epoch: int) -> list[list[int]]:
    return epoch_batches([False] * count, 1.0, size, seed, epoch)


def indices(epoch: list[list[int]]) -> set[int]:
    return {index for batch in epoch for index in batch}


@pytest.mark.parametrize(("count", "size", "expected"), [(7, 2, 3), (8, 4, 2), (9, 8, 1), (3, 8, 1), (1, 8, 1)])
def test_epoch_takes_each_image_once_in_full_batches(count: int, size: int, expected: int) -> None:
    epoch = batches(count, size, 0, 0)
    assert [len(batch) for batch in epoch] == [min(size, count)] * expected
    assert len(indices(epoch)) == sum(map(len, epoch))
    assert indices(epoch) <= set(range(count))


def test_order_depends_on_seed_and_epoch() -> None:
    assert batches(50, 4, 1, 2) == batches(50, 4, 1, 2)
    assert batches(50, 4, 1, 2) != batches(50, 4, 1, 3)
    assert batches(50, 4, 1, 2) != batches(50, 4, 2, 1)
    left_out = {frozenset(range(7)) - indices(batches(7, 2, 0, epoch)) for epoch in range(9)}
    assert len(left_out) > 1  # the incomplete batch differs between epochs


def test_epoch_has_all_defects_and_the_share_of_defect_free_images() -> None:
    defect_free = [index >= 10 for index in range(30)]
    epochs = [indices(epoch_batches(defect_free, 0.3, 4, 0, epoch)) for epoch in range(40)]
    for epoch in epochs:
        assert set(range(10)) <= epoch
        assert len(epoch) == 16  # 10 with defects, 30 % of the 20 without
    assert set().union(*epochs) == set(range(30))  # others in each epoch
    assert epoch_batches(defect_free, 0.0, 10, 0, 0)[0] != list(range(10))
    assert indices(epoch_batches(defect_free, 0.0, 5, 0, 0)) == set(range(10))
    assert epoch_batches([True] * 5, 0.0, 4, 0, 0) == []


def test_batches_are_the_same_from_the_middle_and_with_workers(dataset: Dataset) -> None:
    whole = batches_of(dataset, 1)
    assert [tuple(batch.shape) for batch in whole] == [(2, 20, 20, 4)] * 3
    assert same(whole, batches_of(dataset, 1))
    assert same(whole[2:], batches_of(dataset, 1, skip=2))
    assert same(whole, batches_of(dataset, 1, workers=2))
    assert not same(whole, batches_of(dataset, 2))
    assert not same(whole, batches_of(dataset, 1, seed=6))


def test_augmentation_differs_between_epochs(dataset: Dataset) -> None:
    images = Images(dataset, IDS, None)
    views = [Augmented(images, crop_at_random, 0, epoch)[3][0].numpy().tobytes() for epoch in range(5)]
    assert len(set(views)) == 5


def test_loading_does_not_use_the_global_generator(dataset: Dataset) -> None:
    before = torch.get_rng_state()
    batches_of(dataset, 0)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("cached", [True, False])
def test_images_equal_the_datasets(dataset: Dataset, monkeypatch: pytest.MonkeyPatch, cached: bool) -> None:
    if not cached:
        monkeypatch.setattr(loading, "CACHE_BYTES", 10)
    images = Images(dataset, IDS, None)
    images.warm()
    for index, sample in enumerate(dataset.samples):
        image, mask = images[index]
        assert np.array_equal(image, dataset.image(sample))
        assert np.array_equal(mask, dataset.mask(sample))
        assert images.size(index) == image.shape[:2]
    assert (images[0][0] is images[0][0]) == cached


def test_image_is_resized_and_its_mask_only_for_training(dataset: Dataset) -> None:
    images = Images(dataset, IDS, (15, 22))
    image, mask = images[0]
    assert image.shape == (15, 22, 3)
    assert mask.shape == (30, 44)
    augmented = Augmented(images, lambda image, mask, _: (image, mask), 0, 0)
    assert augmented[0][1].shape == (15, 22)
    expected = torch.nn.functional.interpolate(  # as the exported graph does
        torch.from_numpy(dataset.image(dataset.samples[0])).permute(2, 0, 1)[None].float(),
        size=(15, 22),
        mode="bilinear",
        align_corners=False,
    )[0].permute(1, 2, 0)
    assert np.abs(expected.numpy() - image).max() <= 1


def test_images_are_exposure_normalised_on_request(dataset: Dataset) -> None:
    plain, normalised = Images(dataset, IDS, (15, 22)), Images(dataset, IDS, (15, 22), normalised=True)
    assert not np.array_equal(plain[0][0], normalised[0][0])
    expected = loading.resize_image(normalise_exposure(dataset.image(dataset.samples[0])), (15, 22))
    assert np.array_equal(normalised[0][0], expected)


@pytest.mark.parametrize("size", [(100, 100), (20, 20), (60, 60), (30, 30), (23, 47)])
def test_resizing_a_mask_does_not_shift_it(size: tuple[int, int]) -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 10:30] = 1
    resized = loading.resize_mask(mask, size)
    assert np.array_equal(resized, resized[::-1, ::-1])  # symmetric before, symmetric after
    assert set(np.unique(resized)) == {0, 1}


def test_statistics_equal_a_plain_count(dataset: Dataset) -> None:
    mean, std = Images(dataset, IDS, None).statistics()
    pixels = np.concatenate([dataset.image(sample).reshape(-1, 3) for sample in dataset.samples]) / 255
    assert mean == pytest.approx(pixels.mean(axis=0))
    assert std == pytest.approx(pixels.std(axis=0))
    assert Images(dataset, IDS[:3], None).statistics()[0] != pytest.approx(mean, rel=0.01)  # of its own split only
    images = torch.from_numpy(dataset.image(dataset.samples[0]))[None]
    normal = normalise(images, torch.tensor(mean), torch.tensor(std))
    assert normal.shape == (1, 3, 30, 44)
    assert normal[0, 2, 7, 9].item() == pytest.approx((images[0, 7, 9, 2].item() / 255 - mean[2]) / std[2], rel=1e-4)


def test_unknown_ids_and_masks_of_another_size_are_refused(dataset: Dataset) -> None:
    with pytest.raises(UserError, match="the split names elsewhere"):
        Images(dataset, ["p1", "elsewhere"], None)
    cv2.imwrite(str(dataset.root / "p1-mask.png"), np.zeros((5, 5), np.uint8))
    with pytest.raises(UserError, match="p1: the mask is"):
        Images(dataset, IDS, None)[1]


def test_normalising_removes_the_exposure_and_does_not_stretch_a_flat_image() -> None:
    image = np.random.default_rng(0).integers(0, 52, (36, 44, 3), dtype=np.uint8)
    normalised = normalise_exposure(image)
    assert normalised.dtype == np.uint8
    assert normalised.mean() == pytest.approx(128, abs=0.5)
    assert normalised.std() == pytest.approx(32, abs=0.5)
    assert np.array_equal(normalised, normalise_exposure(2 * image))
    assert np.array_equal(normalised, normalise_exposure(image + 90))
    flat = np.full((8, 9, 3), 77, np.uint8)
    flat[0, 0, 0] = 78
    assert np.abs(normalise_exposure(flat).astype(int) - 128).max() <= 7  # it is not stretched


def test_batch_is_normalised_image_by_image_as_in_training() -> None:
    rng = np.random.default_rng(1)
    images = [rng.integers(low, high, (20, 30, 3), dtype=np.uint8) for low, high in ((0, 9), (90, 256), (3, 4))]
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    normalised = normalise_exposure_batch(batch).permute(0, 2, 3, 1).numpy()
    for found, image in zip(normalised, images, strict=True):
        assert np.abs(found - normalise_exposure(image)).max() <= 0.51
