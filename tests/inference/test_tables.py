"""The tables that other programs read, read back by those programs, and the defects in them."""

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
from dbrnet.inference.tables import Coco, ImageRow, Submission, Summary, find_defects

CLASSES = tuple(ClassInfo(name, (0, 0, 0)) for name in ("background", "crack", "pit, deep"))
MASKS = st.lists(
    arrays(np.uint8, st.tuples(st.integers(1, 8), st.integers(1, 8)), elements=st.integers(0, 2)), max_size=4
)


def describe(name: str, mask: NDArray[np.uint8]) -> ImageRow:
    confidence = np.random.default_rng(0).random(mask.shape, np.float32)
    return ImageRow(
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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MASKS)
def test_cocos_own_tools_read_our_coco_file(tmp_path: Path, masks: list[NDArray[np.uint8]]) -> None:
    table = Coco(tmp_path, CLASSES, {"description": "x"})
    described = [describe(f"{number},.jpg", mask) for number, mask in enumerate(masks)]
    for row in described:
        table.add(row)
    coco = COCO(table.publish())
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["crack", "pit, deep"]
    assert [image["file_name"] for image in coco.loadImgs(coco.getImgIds())] == [row.name for row in described]
    for image_id, (mask, row) in enumerate(zip(masks, described, strict=True), start=1):
        drawn = np.zeros_like(mask)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        for annotation, defect in zip(annotations, row.defects, strict=True):
            pixels = coco.annToMask(annotation).astype(bool)
            assert not drawn[pixels].any()
            assert pixels.sum() == annotation["area"] == defect.area
            rows, columns = np.nonzero(pixels)
            left, top = columns.min(), rows.min()
            assert annotation["bbox"] == [left, top, columns.max() + 1 - left, rows.max() + 1 - top]
            assert annotation["score"] == pytest.approx(defect.score, abs=5e-5)
            drawn[pixels] = annotation["category_id"]
        np.testing.assert_array_equal(drawn, mask)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(MASKS)
def test_our_reader_reads_the_submission(tmp_path: Path, masks: list[NDArray[np.uint8]]) -> None:
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
def test_a_table_has_its_name_only_when_it_is_complete(tmp_path: Path, make: Callable[[Path], Any]) -> None:
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


def test_touching_pixels_of_a_class_are_one_defect_and_the_largest_is_first() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = 1  # by its corners
    mask[0:2, 5:8] = 2
    mask[1, 4] = 1  # beside it, of another class
    confidence = np.full(mask.shape, 0.5, np.float32)
    confidence[0, 0] = 0.8
    defects = find_defects(mask, confidence, CLASSES)
    assert [defect.to_dict() for defect in defects] == [
        {"class_id": 2, "class_name": "pit, deep", "bbox": [5, 0, 3, 2], "area": 6, "score": 0.5},
        {"class_id": 1, "class_name": "crack", "bbox": [0, 0, 3, 3], "area": 3, "score": 0.6},
        {"class_id": 1, "class_name": "crack", "bbox": [4, 1, 1, 1], "area": 1, "score": 0.5},
    ]


def test_an_image_without_defects_and_one_full_of_defect() -> None:
    confidence = np.full((3, 4), 0.25, np.float32)
    assert find_defects(np.zeros((3, 4), np.uint8), confidence, CLASSES) == []
    (whole,) = find_defects(np.full((3, 4), 2, np.uint8), confidence, CLASSES)
    assert (whole.bbox, whole.area, whole.score) == ((0, 0, 4, 3), 12, 0.25)
    assert whole.runs.tolist() == [[0, 12]]


def _flood(mask: NDArray[np.uint8], row: int, column: int) -> frozenset[tuple[int, int]]:
    """The pixels of one class around (row, column), found one by one."""
    same = set(map(tuple, np.argwhere(mask == mask[row, column]).tolist()))
    reached, waiting = set[tuple[int, int]](), [(row, column)]
    while waiting:
        y, x = waiting.pop()
        if (y, x) in same and (y, x) not in reached:
            reached.add((y, x))
            waiting += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return frozenset(reached)


@settings(deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)))
def test_defects_equal_a_flood_fill_pixel_by_pixel(mask: NDArray[np.uint8]) -> None:
    confidence = np.random.default_rng(0).random(mask.shape, np.float32)
    expected = {_flood(mask, *at) for at in np.argwhere(mask).tolist()}
    defects = find_defects(mask, confidence, CLASSES)
    drawn = []
    for defect in defects:
        flat = np.zeros(mask.size, bool)
        for start, length in defect.runs:
            flat[start : start + length] = True
        rows, columns = np.nonzero(flat.reshape(mask.shape, order="F"))
        assert set(mask[rows, columns]) == {defect.class_id}
        assert defect.area == len(rows)
        assert defect.score == pytest.approx(confidence[rows, columns].mean(), abs=1e-6)
        left, top, width, height = defect.bbox
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())
        drawn.append(frozenset(zip(rows.tolist(), columns.tolist(), strict=True)))
    assert len(drawn) == len(expected)
    assert set(drawn) == expected
    assert [defect.area for defect in defects] == sorted((defect.area for defect in defects), reverse=True)
