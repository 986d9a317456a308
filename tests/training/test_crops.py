import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from dbrnet.data.dataset import Dataset, Image, Mask, Sample
from dbrnet.data.loading import Images
from dbrnet.evaluation.metrics import IGNORE_INDEX
from dbrnet.training.augmentation import Augmentation
from dbrnet.training.crops import Crops, load_batches
from dbrnet.training.sampling import Sampler
from tests.data.conftest import make_dataset, write_image

FILL = (7.0, 8.0, 9.0)
IDS = ["wide", "small", "free"]
SIZES = {"wide": (90, 240), "small": (40, 50), "free": (90, 200)}


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Gradients, in which every place shows; two with a defect of 6x6."""
    samples = []
    for name, (height, width) in SIZES.items():
        y, x = np.mgrid[0:height, 0:width].astype(np.uint8)
        image, mask = np.stack([x, y, 60 + 0 * x], axis=2), np.zeros((height, width), np.uint8)
        if name != "free":
            mask[20:26, 30:36] = 1
        write_image(tmp_path / f"{name}.png", np.ascontiguousarray(image[..., ::-1]))  # OpenCV writes BGR
        write_image(tmp_path / f"{name}-mask.png", mask)
        labels = () if name == "free" else (1,)
        samples.append(Sample(name, f"{name}.png", f"{name}-mask.png", height, width, labels, name, name, name))
    return make_dataset(tmp_path, tuple(samples), ("background", "spot"))


def unchanged(image: Image, mask: Mask, seed: int) -> tuple[Image, Mask]:
    return image, mask


def crops(
    dataset: Dataset,
    *,
    seed: int = 0,
    focus: float = 0.5,
    paste: float = 0.0,
    size: tuple[int, int] = (32, 48),
    zoom: float = 1.0,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Crops:
    images = Images(dataset, IDS)
    sampler = Sampler(images.samples, seed=seed, focus=focus, paste=paste)
    return Crops(images, sampler, unchanged, size=size, zoom=zoom, scale=scale, fill=FILL, classes=2, seed=seed)


def test_crops_can_be_sent_to_a_process_that_is_spawned(dataset: Dataset) -> None:
    """As on macOS, where a loading process is no copy of this one."""
    own = crops(dataset, focus=1.0)
    own.augment = Augmentation("flips", photometric=True)
    sent = pickle.loads(pickle.dumps(own))
    assert all(map(torch.equal, own[3], sent[3]))


def test_a_crop_is_a_piece_of_its_image(dataset: Dataset) -> None:
    lefts, tops = set(), set()
    for image, mask in (crops(dataset, focus=0.0)[place] for place in range(60)):
        left, top = int(image[0, 0, 0]), int(image[0, 0, 1])
        assert image.shape == (32, 48, 3)
        assert (image[..., 0] == left + torch.arange(48)).all()
        assert (image[..., 1] == (top + torch.arange(32))[:, None]).all()
        expected = torch.zeros(90 + 48, 240 + 48, dtype=torch.uint8)
        expected[20:26, 30:36] = 1
        assert not mask.any() or torch.equal(mask, expected[top : top + 32, left : left + 48])
        lefts.add(left)
        tops.add(top)
    assert len(lefts) > 25
    assert len(tops) > 20


def test_a_crop_over_a_defect_shows_it_not_always_in_its_middle(dataset: Dataset) -> None:
    columns = []
    for _, mask in (crops(dataset, focus=1.0)[place] for place in range(60)):
        assert (mask == 1).any()
        columns.append(int(torch.nonzero(mask == 1)[:, 1].float().mean()))
    assert max(columns) - min(columns) > 20


@pytest.mark.parametrize(("zoom", "scale"), [(2.0, (1.0, 1.0)), (1.0, (2.0, 2.0)), (0.5, (4.0, 4.0))])
def test_zoom_and_scale_enlarge_alike(dataset: Dataset, zoom: float, scale: tuple[float, float]) -> None:
    for image, mask in (crops(dataset, focus=1.0, zoom=zoom, scale=scale)[place] for place in range(10)):
        slope = (image[0, 40, 0].float() - image[0, 8, 0].float()) / 32
        assert slope == pytest.approx(0.5, abs=0.04)
        assert (mask == 1).sum() <= 144


def test_enlarging_agrees_with_the_exported_graphs_resizing(dataset: Dataset) -> None:
    whole = crops(dataset, focus=0.0, size=(80, 100), zoom=2.0)
    small = next(image for image, _ in (whole[place] for place in range(9)) if image[-1, -1].tolist() == [49, 39, 60])
    source = torch.from_numpy(dataset.image(dataset.by_id["small"])).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(source, scale_factor=2, mode="bilinear")[0].permute(1, 2, 0)
    assert (small.float() - expected).abs().max() <= 1


def test_what_lies_outside_is_filled_and_ignored(dataset: Dataset) -> None:
    for image, mask in (crops(dataset, size=(120, 300))[place] for place in range(6)):
        outside = mask == IGNORE_INDEX
        assert outside.any()
        assert (image[outside] == torch.tensor([7, 8, 9], dtype=torch.uint8)).all()
        assert (~outside).any(1).sum() in (40, 90)


def test_pasted_defects_lie_in_the_crop_of_another_image(dataset: Dataset) -> None:
    found = [crops(dataset, focus=1.0, paste=1.0)[place] for place in range(20)]
    assert all((mask == 1).any() for _, mask in found)
    assert {int((mask == 1).sum()) for _, mask in found} == {36}


def test_a_crop_depends_on_seed_and_place_alone(dataset: Dataset) -> None:
    varied = partial(crops, dataset, paste=0.5, scale=(0.5, 2.0))
    batches = [[0, 1], [2, 3], [4, 5]]
    whole = list(load_batches(varied(), batches, 0))
    for workers in (0, 2):
        again = list(load_batches(varied(), batches[1:], workers))
        for (image, mask), (expected, expected_mask) in zip(again, whole[1:], strict=True):
            assert torch.equal(image, expected)
            assert torch.equal(mask, expected_mask)
    other = next(iter(load_batches(varied(seed=1), batches, 0)))
    assert not torch.equal(other[0], whole[0][0])


def test_loading_does_not_use_the_global_generator(dataset: Dataset) -> None:
    before = torch.get_rng_state()
    list(load_batches(crops(dataset), [[0, 1]], 0))
    assert torch.equal(before, torch.get_rng_state())
