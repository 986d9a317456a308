"""The public Python API, as the README shows it."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

import dbrnet
from dbrnet import load_model, open_dataset, read_image
from dbrnet.config import load_params
from dbrnet.data.dataset import Image
from dbrnet.data.synthetic import generate
from dbrnet.errors import UserError
from dbrnet.steps.ingest import ingest
from tests.conftest import Exported


def test_a_model_from_a_file_predicts_an_image(
    tmp_path: Path, exported: Exported, make_image: Callable[..., Image]
) -> None:
    model, pixels = load_model(str(exported[0]), threads=1), make_image(48, 64)
    cv2.imwrite(str(tmp_path / "strip.png"), cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
    image = read_image(tmp_path / "strip.png")
    assert np.array_equal(image, pixels)
    mask, confidence = model.predict(image[None])
    assert mask.shape == confidence.shape == (1, 48, 64)
    assert mask.max() < len(model.classes)


def test_an_ingested_dataset_opens(tmp_path: Path) -> None:
    generate(tmp_path / "source", images=50, seed=0)
    params = load_params(Path(__file__).parents[1] / "params.yaml").ingest
    ingest(params.model_copy(update={"source": str(tmp_path / "source")}), out=tmp_path / "dataset")
    dataset = open_dataset(str(tmp_path / "dataset"))
    image, mask = dataset.pair(dataset.samples[0])
    assert len(dataset.samples) == 50
    assert image.shape == (*mask.shape, 3)


def test_every_public_name_exists_and_others_do_not() -> None:
    for name in dbrnet.__all__:
        assert getattr(dbrnet, name)
    with pytest.raises(AttributeError, match="no attribute 'open_model'"):
        _ = dbrnet.open_model


def test_a_missing_model_is_one_line() -> None:
    with pytest.raises(UserError, match=r"nowhere\.onnx"):
        load_model("nowhere.onnx")
