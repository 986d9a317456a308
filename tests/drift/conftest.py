"""Generated strips of steel and a model that looks at one channel, made once for all who read them."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx.parser
import pytest

from dbrnet.data.dataset import Dataset, Image, Sample, content_hash
from dbrnet.data.image_stats import write_image_stats
from dbrnet.data.synthetic import generate
from dbrnet.data.writer import build_dataset
from dbrnet.inference.runtimes.exported import PRODUCER


def ingested(name: str, source: Path, out: Path) -> Dataset:
    out.mkdir()
    dataset = build_dataset(name, source, out)
    write_image_stats(dataset, {})
    return dataset


@pytest.fixture(scope="session")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """200 images of steel strip, ingested."""
    folder = tmp_path_factory.mktemp("strips")
    generate(folder / "source", images=200)
    return ingested("steel-strip", folder / "source", folder / "dataset")


def green(image: Image) -> float:
    """The confidence of the tiny model below."""
    return float((image[..., 1] / np.float32(255)).mean())


TINY = f"""
<
    ir_version: 8, opset_import: ["": 17], producer_name: "{PRODUCER}",
    metadata_props: ["classes": "[]", "code_revision": "abc"]
>
tiny (uint8[N, H, W, 3] image) => (uint8[N, H, W] mask, float[N, H, W] confidence)
<int64 channel = {{1}}, float most = {{255}}>
{{
    mask = Gather <axis = 3> (image, channel)
    green = Cast <to = 1> (mask)
    confidence = Div (green, most)
}}
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported file that is as sure of a pixel as it is green."""
    path = tmp_path_factory.mktemp("tiny") / "model.onnx"
    onnx.save_model(onnx.parser.parse_model(TINY), path)
    return path


def subset(dataset: Dataset, keep: Callable[[Sample], bool], root: Path) -> Dataset:
    """An ingested dataset with the kept images of another."""
    samples = tuple(sample for sample in dataset.samples if keep(sample))
    for sample in samples:
        for name in (sample.image, sample.mask):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(dataset.root / name, root / name)
    card = replace(dataset.card, images=len(samples), content_hash=content_hash(samples))
    made = Dataset(root, card, samples)
    made.save_tables()
    return made


def write_images(dataset: Dataset, folder: Path, change: Callable[[Image], Image] = lambda image: image) -> Path:
    """A plain folder of the dataset's images, each changed."""
    folder.mkdir()
    for sample in dataset.samples:
        bgr = cv2.cvtColor(change(dataset.image(sample)), cv2.COLOR_RGB2BGR)
        assert cv2.imwrite(str(folder / f"{sample.id}.png"), bgr)
    return folder
