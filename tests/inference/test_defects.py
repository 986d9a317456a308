import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo
from dbrnet.inference.defects import find_defects

CLASSES = (ClassInfo("background", (0, 0, 0)), ClassInfo("crack", (255, 0, 0)), ClassInfo("pit", (0, 255, 0)))


def test_what_hangs_together_is_one_defect_the_largest_first() -> None:
    mask = np.zeros((6, 8), np.uint8)
    mask[0, 0] = mask[1, 1] = mask[2, 2] = 1  # by its corners
    mask[0:2, 5:8] = 2
    mask[1, 4] = 1  # beside it, of another class
    confidence = np.full(mask.shape, 0.5, np.float32)
    confidence[0, 0] = 0.8
    found = find_defects(mask, confidence, CLASSES)
    assert [one.to_dict() for one in found] == [
        {"class_id": 2, "class_name": "pit", "bbox": [5, 0, 3, 2], "area": 6, "score": 0.5},
        {"class_id": 1, "class_name": "crack", "bbox": [0, 0, 3, 3], "area": 3, "score": 0.6},
        {"class_id": 1, "class_name": "crack", "bbox": [4, 1, 1, 1], "area": 1, "score": 0.5},
    ]


def test_an_image_without_and_one_full_of_defect() -> None:
    confidence = np.full((3, 4), 0.25, np.float32)
    assert find_defects(np.zeros((3, 4), np.uint8), confidence, CLASSES) == []
    (whole,) = find_defects(np.full((3, 4), 2, np.uint8), confidence, CLASSES)
    assert (whole.bbox, whole.area, whole.score) == ((0, 0, 4, 3), 12, 0.25)
    assert whole.runs.tolist() == [[0, 12]]


def _flood(mask: NDArray[np.uint8], row: int, column: int) -> frozenset[tuple[int, int]]:
    """The pixels of one class around (row, column), found one by one."""
    reached, waiting = set[tuple[int, int]](), [(row, column)]
    while waiting:
        y, x = waiting.pop()
        inside = 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1]
        if inside and (y, x) not in reached and mask[y, x] == mask[row, column]:
            reached.add((y, x))
            waiting += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return frozenset(reached)


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 2)))
def test_against_a_flood_pixel_by_pixel(mask: NDArray[np.uint8]) -> None:
    confidence = np.random.default_rng(0).random(mask.shape, np.float32)
    expected = {_flood(mask, *at) for at in np.argwhere(mask).tolist()}
    found = find_defects(mask, confidence, CLASSES)
    drawn = []
    for one in found:
        flat = np.zeros(mask.size, bool)
        for start, length in one.runs:
            flat[start : start + length] = True
        rows, columns = np.nonzero(flat.reshape(mask.shape, order="F"))
        assert set(mask[rows, columns]) == {one.class_id}
        assert one.area == len(rows)
        assert one.score == pytest.approx(confidence[rows, columns].mean(), abs=1e-6)
        left, top, width, height = one.bbox
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())
        drawn.append(frozenset(zip(rows.tolist(), columns.tolist(), strict=True)))
    assert len(drawn) == len(expected)
    assert set(drawn) == expected
    assert [one.area for one in found] == sorted((one.area for one in found), reverse=True)
