"""A tiny canonical dataset on disk, and a predictor whose errors are known."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dbrnet.data.dataset import Card, ClassInfo, Dataset, Sample
from dbrnet.evaluation.predictions import Predict
from dbrnet.records import MatchFacts

IDS = tuple(f"p{number}" for number in range(6))
RULES = MatchFacts(min_overlap=0.5, boundary_tolerance=2)

CLASSES = (
    ClassInfo("background", (0, 0, 0)),
    ClassInfo("scratch", (230, 159, 0)),
    ClassInfo("dent", (86, 180, 233)),
    ClassInfo("stain", (0, 158, 115)),
)
CARD = Card(
    name="tiny",
    title="Tiny <made-up> strip",
    classes=CLASSES,
    homepage="https://example.org/tiny",
    citation="Nobody",
    licence="none needed",
    group_rule="one group a letter",
    leak_note="Copies were never searched for.",
    notes=("a note", "another note"),
    images=6,
    groups=5,
    images_by_class={},
    pixel_shares={},
    content_hash="ab" * 32,
)


def _truth(number: int) -> NDArray[np.uint8]:
    """Sizes differ; 0 and 1 are clean, 2 to 4 hold a scratch of 12 pixels, 4 and 5 a dent of 8."""
    mask = np.zeros((20 + number, 60 if number == 5 else 24), np.uint8)
    if number in (2, 3, 4):
        mask[4:7, 4:8] = 1
    if number in (4, 5):
        mask[12:14, 4:8] = 2
    return mask


def tiny_dataset(folder: Path) -> Dataset:
    """Six images of five groups in `folder`."""
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    samples = []
    for number, group in enumerate("aabcde"):
        mask = _truth(number)
        height, width = mask.shape
        image, name = f"images/p{number}.png", f"masks/p{number}.png"
        # The image's brightness tells the predictor which one it is.
        cv2.imwrite(str(folder / image), np.full((height, width, 3), 10 * number, np.uint8))
        cv2.imwrite(str(folder / name), mask)
        present = tuple(int(value) for value in np.unique(mask) if value)
        samples.append(Sample(f"p{number}", image, name, height, width, present, group, "0" * 64))
    Dataset(folder, CARD, tuple(samples)).save_tables()
    return Dataset.load(folder)


def answer(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Right but for: a false positive of 2 pixels in p1, p2 missed whole, 3 pixels of p3 and p4's dent wrong."""
    masks = []
    for image in images:
        number = int(image[0, 0, 0]) // 10
        mask = _truth(number)
        if number == 1:
            mask[0, :2] = 1
        if number == 2:
            mask[:] = 0
        if number == 3:
            mask[4, 4:7] = 0
        if number == 4:
            mask[mask == 2] = 1
        masks.append(mask)
    answers = np.stack(masks)
    return answers, np.full(answers.shape, 0.75, np.float32)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return tiny_dataset(tmp_path)


@pytest.fixture
def predict() -> Predict:
    return answer
