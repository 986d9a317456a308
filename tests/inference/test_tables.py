"""The forms that other programs read, read back by those programs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools.coco import COCO

from dbrnet.data.dataset import ClassInfo
from dbrnet.data.rle import Row, encode, read_mask, read_table
from dbrnet.inference.defects import find_defects
from dbrnet.inference.tables import Coco, Found, Submission, Summary

CLASSES = tuple(ClassInfo(name, (0, 0, 0)) for name in ("background", "crack", "pit, deep"))
MASKS = st.lists(
    arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 2)), max_size=4
)


def describe(name: str, mask: NDArray[np.uint8]) -> Found:
    confidence = np.random.default_rng(0).random(mask.shape, np.float32)
    return Found(
        place=f"s3://steel/{name}",
        name=name,
        output=name.removesuffix(".jpg"),
        height=mask.shape[0],
        width=mask.shape[1],
        shares=np.bincount(mask.ravel(), minlength=3) / mask.size,
        confidence=float(confidence.mean()),
        runs=[encode(mask == 1), encode(mask == 2)],
        defects=find_defects(mask, confidence, CLASSES),
    )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MASKS)
def test_coco_is_read_by_its_own_tools(tmp_path: Path, masks: list[NDArray[np.uint8]]) -> None:
    table = Coco(tmp_path, CLASSES, {"description": "x"})
    images = [describe(f"{number},.jpg", mask) for number, mask in enumerate(masks)]
    for one in images:
        table.add(one)
    coco = COCO(table.publish())
    assert [one["name"] for one in coco.loadCats(coco.getCatIds())] == ["crack", "pit, deep"]
    assert [one["file_name"] for one in coco.loadImgs(coco.getImgIds())] == [one.name for one in images]
    for image_id, (mask, one) in enumerate(zip(masks, images, strict=True), start=1):
        drawn = np.zeros_like(mask)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        for annotation, defect in zip(annotations, one.defects, strict=True):
            pixels = coco.annToMask(annotation).astype(bool)
            assert not drawn[pixels].any()
            assert pixels.sum() == annotation["area"] == defect.area
            rows, columns = np.nonzero(pixels)
            left, top = columns.min(), rows.min()
            assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert annotation["score"] == pytest.approx(defect.score, abs=5e-5)
            drawn[pixels] = annotation["category_id"]
        np.testing.assert_array_equal(drawn, mask)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MASKS)
def test_the_submission_is_read_by_our_own_reader(tmp_path: Path, masks: list[NDArray[np.uint8]]) -> None:
    table = Submission(tmp_path)
    for number, mask in enumerate(masks):
        table.add(describe(f"strip_{number}.jpg", mask))
    path = table.publish()
    assert path.read_text().count("\n") == 1 + 2 * len(masks)
    rows = list(read_table(path, {"1": 1, "2": 2}))
    for number, mask in enumerate(masks):
        of_image = {row.class_id: row for row in rows if isinstance(row, Row) and row.image == f"strip_{number}.jpg"}
        np.testing.assert_array_equal(read_mask(of_image, *mask.shape)[0], mask)


@pytest.mark.parametrize("make", [lambda out: Summary(out, CLASSES), Submission, lambda out: Coco(out, CLASSES, {})])
def test_a_table_has_its_name_only_when_it_is_whole(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    table = make(tmp_path)
    table.add(describe("a.jpg", np.ones((4, 5), np.uint8)))
    assert not table.path.exists()
    table.publish()
    table.discard()
    assert list(tmp_path.iterdir()) == [table.path]
    table.path.unlink()
    make(tmp_path).discard()
    assert not list(tmp_path.iterdir())


def test_names_with_commas_quotes_and_other_scripts_survive(tmp_path: Path) -> None:
    name = 'Blech, "12" Zoll/größe 鋼.jpg'
    for table in (Submission(tmp_path), Coco(tmp_path, CLASSES, {})):
        table.add(describe(name, np.ones((4, 5), np.uint8)))
        table.publish()
    (row,) = read_table(tmp_path / "submission.csv", {"1": 1, "2": 2})
    assert row.image == name
    assert json.loads((tmp_path / "coco.json").read_text())["images"][0]["file_name"] == name
