from pathlib import Path

import numpy as np
import pytest

from dbrnet.data.dataset import Sample
from dbrnet.data.loading import Images
from dbrnet.training.zoom import choose_zoom
from tests.data.conftest import make_dataset, write_image


@pytest.mark.parametrize(("thickness", "zoom"), [(3, 2.0), (5, 1.75), (7, 1.25), (9, 1.0), (15, 1.0), (None, 1.0)])
def test_the_thinnest_class_becomes_a_cell_thick(tmp_path: Path, thickness: int | None, zoom: float) -> None:
    mask = np.zeros((60, 90), np.uint8)
    if thickness:
        mask[5 : 5 + thickness, 5:80] = 1
        mask[30:55, 10:40] = 2  # thick
    write_image(tmp_path / "image.png", np.full((60, 90, 3), 90, np.uint8))
    write_image(tmp_path / "mask.png", mask)
    labels = (1, 2) if thickness else ()
    sample = Sample("a", "image.png", "mask.png", 60, 90, labels, "a", "a", "a")
    dataset = make_dataset(tmp_path, (sample,), ("background", "thin", "thick"))
    assert choose_zoom(Images(dataset, ["a"])) == zoom


@pytest.mark.parametrize(("area", "zoom"), [(4 * 60 * 90, 2.0), (2 * 60 * 90, 1.25), (60 * 90, 1.0), (50 * 90, 1.0)])
def test_large_images_are_enlarged_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, area: int, zoom: float
) -> None:
    monkeypatch.setattr("dbrnet.training.zoom.LARGEST_AREA", area)
    mask = np.zeros((60, 90), np.uint8)
    mask[5:8, 5:80] = 1
    write_image(tmp_path / "image.png", np.full((60, 90, 3), 90, np.uint8))
    write_image(tmp_path / "mask.png", mask)
    sample = Sample("a", "image.png", "mask.png", 60, 90, (1,), "a", "a", "a")
    assert choose_zoom(Images(make_dataset(tmp_path, (sample,), ("background", "thin")), ["a"])) == zoom
