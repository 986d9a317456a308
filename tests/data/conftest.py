"""Small sources in the layouts of the real datasets, and a dataset without files."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dbrnet.data.dataset import Card, ClassInfo, Dataset, Sample
from dbrnet.data.writer import build_dataset

SEVERSTAL_ROWS = ("a.jpg,1,1 3 100 10", "a.jpg,3,3 4", "c.jpg,4,2048 1")  # a: pixel 3 has two classes


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), pixels)


def texture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(60, 200, (height, width), np.uint8)


def square(height: int, width: int, value: int, side: int = 10) -> NDArray[np.uint8]:
    mask = np.zeros((height, width), np.uint8)
    mask[5 : 5 + side, 5 : 5 + side] = value
    return mask


def encoded(pixels: NDArray[Any], suffix: str = ".png") -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


def file_contents(root: Path) -> dict[str, bytes]:
    """The bytes of all files under `root`, by their paths below it."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def build(name: str, source: Path, out: Path, mask_threshold: int = 127) -> Dataset:
    """Build into a new folder."""
    out.mkdir()
    return build_dataset(name, source, out, mask_threshold=mask_threshold)


def make_dataset(root: Path, samples: tuple[Sample, ...], names: tuple[str, ...], leak_note: str = "") -> Dataset:
    """A dataset of `samples` with the classes `names`, whose card says no more than it must."""
    card = Card(
        name="made-up",
        title="Made up",
        classes=tuple(ClassInfo(name, (0, 0, 0)) for name in names),
        licence="",
        leak_note=leak_note,
        notes=(),
        images=len(samples),
        groups=len({sample.group for sample in samples}),
        images_by_class={},
        pixel_shares={},
        content_hash="the content",
    )
    return Dataset(root, card, samples)


def make_neu_source(folder: Path) -> Path:
    """Wrapped in the top folder of a repository's download: 3 training and 2 test images of 40 x 50."""
    top = folder / "source"
    for name, numbers in (("training", (1, 2, 3)), ("test", (1, 2))):
        for number in numbers:
            file = f"{name}/{number:06d}"
            write_image(top / f"NEU_Seg-main/images/{file}.jpg", texture(40, 50, number))
            write_image(top / f"NEU_Seg-main/annotations/{file}.png", square(40, 50, number))
    (top / "NEU_Seg-main/README.md").write_text("# NEU_Seg")
    return top


@pytest.fixture
def neu_source(tmp_path: Path) -> Path:
    return make_neu_source(tmp_path)


@pytest.fixture
def tile_source(tmp_path: Path) -> Path:
    """Two tiles of each defect, one of them under two exposures, and a free tile, sizes differing."""
    top = tmp_path / "source"
    for number, name in enumerate(("Blowhole", "Break", "Crack", "Fray", "Uneven", "Free")):
        height, width = 40 + number, 50 - number
        for exposure, num in ((1, 1000), (2, 1100), (1, 1200)):
            stem = top / f"tiles-master/MT_{name}/Imgs/exp{exposure}_num_{num}"
            mask = square(height, width, 0 if name == "Free" else 255)
            if name != "Free":
                mask[0, :3] = (127, 128, 10)  # anti-aliased edge
            write_image(stem.with_suffix(".jpg"), texture(height, width, num))
            write_image(stem.with_suffix(".png"), mask)
    return top


@pytest.fixture
def severstal_source(tmp_path: Path) -> Path:
    """Four images of 32 x 64 of which b and d are defect-free."""
    top = tmp_path / "source"
    for seed, name in enumerate("abcd"):
        write_image(top / f"train_images/{name}.jpg", texture(32, 64, seed))
    write_image(top / "test_images/unlabelled.jpg", texture(32, 64))
    (top / "train.csv").write_text("\n".join(("ImageId,ClassId,EncodedPixels", *SEVERSTAL_ROWS, "")))
    return top
