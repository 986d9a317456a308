import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbrnet.data.dataset import Dataset, Image, image_hash
from dbrnet.data.image_stats import FEATURES, measure_image_stats, read_image_stats, write_image_stats
from dbrnet.data.synthetic import generate
from dbrnet.errors import UserError
from tests.data.conftest import build


def grain(mean: float = 120, deviation: float = 20, shape: tuple[int, int] = (80, 120)) -> Image:
    grey = np.random.default_rng(0).normal(mean, deviation, shape).clip(0, 255).astype(np.uint8)
    return cv2.merge([grey] * 3).astype(np.uint8)


def measured(image: Image) -> dict[str, float]:
    return dict(zip(FEATURES, measure_image_stats(image).tolist(), strict=True))


def test_ramp_has_the_expected_values() -> None:
    ramp = np.tile(np.arange(10, 74, dtype=np.uint8), (40, 1))  # half size: one step of 2 for each pixel across
    stats = measured(cv2.merge([ramp] * 3).astype(np.uint8))
    assert stats["brightness"] == pytest.approx(41.5, abs=0.6)  # a mean of two greys is rounded
    assert stats["contrast"] == pytest.approx(2 * np.arange(32).std(), rel=0.01)
    assert stats["texture"] == pytest.approx(1)
    assert (stats["direction"], stats["clipped"]) == (0, 0)


def turn(image: Image) -> Image:
    return np.ascontiguousarray(np.rot90(image))


@pytest.mark.parametrize(
    ("change", "feature", "up"),
    [
        (lambda image: np.minimum(image, 200) + np.uint8(40), "brightness", True),
        (lambda image: (image * 0.5 + 60).astype(np.uint8), "contrast", False),
        (lambda image: cv2.GaussianBlur(image, (0, 0), 2), "texture", False),
        (lambda image: cv2.blur(image, (1, 9)), "direction", False),
        (lambda image: turn(cv2.blur(turn(image), (1, 9)).astype(np.uint8)), "direction", True),
        (lambda image: np.clip(image * 1.0 + 100, 0, 255).astype(np.uint8), "clipped", True),
    ],
    ids=["lighter", "flatter", "out of focus", "smeared down", "smeared across", "overexposed"],
)
def test_each_feature_responds_to_its_change(change: Callable[[Image], Image], feature: str, up: bool) -> None:
    image = grain()
    before, after = measured(image)[feature], measured(change(image))[feature]
    assert (after > before) == up
    assert abs(after - before) > 0.1 * max(before, 1)


def test_dead_pixel_does_not_count_as_clipped() -> None:
    image = grain()
    image[3, 3] = 0
    assert measured(image)["clipped"] == measured(grain())["clipped"] == 0


def test_black_image_has_no_direction() -> None:
    black = measured(np.zeros((32, 32, 3), np.uint8))
    assert black == {"brightness": 0, "contrast": 0, "texture": 0, "direction": 50, "clipped": 100}


def test_image_too_small_is_refused() -> None:
    with pytest.raises(UserError, match="31x40 is too small"):
        measure_image_stats(np.zeros((31, 40, 3), np.uint8))


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("strips")
    generate(folder / "source", images=12)
    return build("steel-strip", folder / "source", folder / "dataset")


def test_table_is_exact(strips: Dataset) -> None:
    write_image_stats(strips, {})
    table = read_image_stats(strips)
    assert len(table) == 12
    for sample in strips.samples:
        image = strips.image(sample)
        assert table[sample.image_sha256].tolist() == measure_image_stats(image).tolist()
        assert image_hash(image) == sample.image_sha256


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux, to give the process one core")
def test_table_is_the_same_on_one_core(strips: Dataset) -> None:
    table = Path(strips.root, "image_stats.csv")
    write_image_stats(strips, {})
    before, cores = table.read_bytes(), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        write_image_stats(strips, {})
    finally:
        os.sched_setaffinity(0, cores)
    assert table.read_bytes() == before


def test_image_hash_depends_on_pixels_and_shape() -> None:
    image = grain()
    other = image.copy()
    other[0, 0, 0] ^= 1
    assert image_hash(image) == image_hash(image.copy())
    assert len({image_hash(image), image_hash(other), image_hash(image.reshape(120, 80, 3))}) == 3
