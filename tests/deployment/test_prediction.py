import csv
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbrnet.data.dataset import Image, decode_grey, decode_image
from dbrnet.deployment.prediction import predict_files
from dbrnet.deployment.runtimes.base import Model
from dbrnet.deployment.runtimes.catalogue import open_model
from dbrnet.errors import UserError
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta


@pytest.fixture(scope="module")
def model(exported: tuple[Path, DBRNet, ModelMeta]) -> Model:
    return open_model(exported[0], threads=1)


def save(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path


def test_masks_overlays_and_summary(model: Model, picture: Callable[..., Image], tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    images = {"a.png": picture(64, 100), "b.png": picture(50, 41, seed=1)}
    for name, image in images.items():
        save(folder / name, image)
    (folder / "notes.txt").write_text("not a picture")
    out = tmp_path / "out"
    written = predict_files(model, [folder], out)
    assert {str(path.relative_to(out)) for path in written} == {
        "masks/a.png", "overlays/a.jpg", "masks/b.png", "overlays/b.jpg", "summary.csv",
    }  # fmt: skip
    assert all(path.is_file() for path in written)
    rows = list(csv.DictReader((out / "summary.csv").open()))
    for row, (name, image) in zip(rows, images.items(), strict=True):
        expected, confidence = model.predict(image[None])
        mask = decode_grey((out / "masks" / name).read_bytes(), name)
        np.testing.assert_array_equal(mask, expected[0])
        assert row["file"] == str(folder / name)
        for index, info in enumerate(model.classes):
            assert float(row[info.name]) == pytest.approx((mask == index).mean(), abs=1e-6)
        assert float(row["mean_confidence"]) == pytest.approx(confidence.mean(), abs=1e-4)
        overlay = decode_image((out / "overlays" / Path(name).with_suffix(".jpg")).read_bytes(), name)
        assert overlay.shape[0] >= image.shape[0]
        assert overlay.shape[1:] == image.shape[1:]


def test_equal_stems_stay_apart(model: Model, picture: Callable[..., Image], tmp_path: Path) -> None:
    sources = [
        save(tmp_path / "one" / "x.png", picture(40, 40, seed=1)),
        save(tmp_path / "two" / "x.png", picture(48, 40, seed=2)),
        save(tmp_path / "two" / "x-2.png", picture(56, 40, seed=3)),
    ]
    predict_files(model, sources, tmp_path / "out")
    heights = {
        path.stem: decode_grey(path.read_bytes(), path).shape[0]
        for path in (tmp_path / "out/masks").iterdir()
    }
    assert heights == {"x": 40, "x-3": 48, "x-2": 56}


def test_a_broken_picture_is_named_and_leaves_nothing(
    model: Model, picture: Callable[..., Image], tmp_path: Path
) -> None:
    good = save(tmp_path / "good.png", picture(40, 40))
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:60])
    with pytest.raises(UserError, match=r"broken\.png: not a readable image"):
        predict_files(model, [good, broken], tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").rglob("*.*")} == {"good.png", "good.jpg"}


def test_other_wrong_inputs(model: Model, picture: Callable[..., Image], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    tiny = save(tmp_path / "tiny.png", picture(20, 90))
    for paths, message in (
        ([tmp_path / "none.png"], r"none\.png: cannot be read"),
        ([tmp_path / "empty"], "empty: no pictures in this folder"),
        ([tiny], r"tiny\.png: a picture of 20x90 is too small"),
        ([], "no picture to predict"),
    ):
        with pytest.raises(UserError, match=message):
            predict_files(model, paths, tmp_path / "out")
    assert not (tmp_path / "out").exists()
