import csv
from collections import defaultdict
from pathlib import Path
from time import process_time

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dbrnet.data import rle, synthetic
from dbrnet.data.dataset import Dataset
from dbrnet.data.readers.public import SteelStrip
from dbrnet.data.synthetic import HEIGHT, WIDTH, generate
from dbrnet.data.writer import build_dataset
from dbrnet.files import MARKER, claim
from tests.data.conftest import file_contents

FLIPS = {"r0": (1, 1), "r180": (-1, -1), "fh": (1, -1), "fv": (-1, 1)}
IMAGES = 200
CLASSES = SteelStrip.info.classes


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("steel") / "strip"
    began = process_time()
    generate(out, images=IMAGES, seed=0)
    assert process_time() - began < 10
    return out


@pytest.fixture(scope="module")
def dataset(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The source as the reader ingests it."""
    return build_dataset("steel-strip", source, tmp_path_factory.mktemp("dataset"))


def test_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        generate(tmp_path / name, images=12, seed=seed)
    assert file_contents(tmp_path / "a") == file_contents(tmp_path / "b")
    assert file_contents(tmp_path / "a") != file_contents(tmp_path / "c")


@pytest.mark.parametrize("images", [1, 2, 7])
def test_requested_number_of_images_replaces_the_previous_ones(tmp_path: Path, images: int) -> None:
    claim(tmp_path / "out", "generate")
    (tmp_path / "out" / "stale").touch()
    generate(tmp_path / "out", images=images, seed=0)
    assert len(list((tmp_path / "out" / "train_images").iterdir())) == images
    others = sorted(path.name for path in tmp_path.rglob("*") if path.suffix != ".jpg")
    assert others == [MARKER, "out", "train.csv", "train_images"]


def test_layout_is_severstals(source: Path) -> None:
    with (source / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["ImageId", "ClassId", "EncodedPixels"]
    assert {row["ClassId"] for row in rows} == {"1", "2", "3", "4"}
    keys = [(row["ImageId"], row["ClassId"]) for row in rows]
    assert len(set(keys)) == len(keys)
    covered: dict[str, NDArray[np.int_]] = defaultdict(lambda: np.zeros((HEIGHT, WIDTH), int))
    for row in rows:
        assert (source / "train_images" / row["ImageId"]).is_file()
        covered[row["ImageId"]] += rle.decode(row["EncodedPixels"], HEIGHT, WIDTH)
    assert all(counts.sum() > 0 and counts.max() == 1 for counts in covered.values())


def test_class_frequencies(dataset: Dataset) -> None:
    assert len(dataset.samples) == IMAGES
    groups = defaultdict(set)
    for sample in dataset.samples:
        for label in sample.classes:
            groups[label].add(sample.group)
    assert set(groups) == {1, 2, 3, 4}
    assert min(len(held) for held in groups.values()) >= 15
    free = sum(not sample.classes for sample in dataset.samples)
    assert 0.3 <= free / IMAGES <= 0.4
    assert sum(len(sample.classes) == 2 for sample in dataset.samples) >= 8
    # A network that answers "background" everywhere scores a fifth of the background's share.
    assert dataset.card.pixel_shares["background"] / len(CLASSES) < 0.3
    assert all(0.008 < dataset.card.pixel_shares[info.name] < 0.05 for info in CLASSES[1:])


def test_each_class_looks_as_its_name_says(dataset: Dataset) -> None:
    assert [CLASSES[label].name for label in synthetic._DEFECTS] == ["scratch", "patch", "inclusion", "scale-pit"]
    contrast = defaultdict(list)
    for sample in dataset.samples:
        grey, mask = dataset.image(sample)[..., 0] / 255, dataset.mask(sample)
        for label in sample.classes:
            inside = grey[mask == label]
            contrast[label].append((inside.mean() - grey[mask == 0].mean(), inside.std()))
    mean, spread = {}, {}
    for label, values in contrast.items():
        mean[label], spread[label] = np.median(values, axis=0)
    assert mean[1] > 0.1  # scratches are bright
    assert mean[3] < mean[2] < -0.08  # inclusions are darker than patches, and both than steel
    assert spread[4] > 1.5 * spread[2]  # pits are rough


def test_defects_are_at_least_ten_pixels_thick(dataset: Dataset) -> None:
    thickness = defaultdict(list)
    for sample in dataset.samples:
        mask = dataset.mask(sample)
        for label in sample.classes:
            depth = cv2.distanceTransform((mask == label).astype(np.uint8), cv2.DIST_L2, 5)
            thickness[label].append(2 * float(depth.max()))
    assert all(np.median(values) >= 10 for values in thickness.values())


def test_copies_of_a_strip_are_near_duplicates_with_turned_masks(dataset: Dataset) -> None:
    strips = defaultdict(list)
    for sample in dataset.samples:
        strips[sample.group].append(sample)
    copied = [copies for copies in strips.values() if len(copies) > 1]
    assert len(copied) > 30
    likeness = []
    for copies in copied:
        upright = []
        for sample in copies:
            down, right = FLIPS[sample.id.split("_")[1]]
            image, mask = dataset.image(sample)[::down, ::right, 0], dataset.mask(sample)[::down, ::right]
            upright.append((image.astype(float), mask))
        for image, mask in upright[1:]:
            assert (mask == upright[0][1]).all()
            likeness.append(np.corrcoef(image.ravel(), upright[0][0].ravel())[0, 1])
            assert not np.array_equal(image, upright[0][0])
    assert min(likeness) > 0.5
    assert np.median(likeness) > 0.85


def test_different_strips_are_no_near_duplicates(dataset: Dataset) -> None:
    firsts = {sample.group: sample for sample in dataset.samples if not sample.classes}
    small = [dataset.image(sample)[..., 0].astype(float).ravel() for sample in firsts.values()]
    correlation = np.corrcoef(np.stack(small))
    assert np.abs(correlation[~np.eye(len(small), dtype=bool)]).max() < 0.8
    assert np.median(np.abs(correlation[~np.eye(len(small), dtype=bool)])) < 0.35
