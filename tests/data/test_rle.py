import csv
import io
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dbrnet.data.rle import RleError, decode, encode


def between(edges: list[int], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask that flips at each of `edges`."""
    flips = np.zeros(shape[0] * shape[1] + 1, int)
    np.add.at(flips, edges, 1)
    return (flips.cumsum()[:-1] % 2 == 1).reshape(shape)


# Scattered pixels, and long runs.
MASKS = hnp.array_shapes(min_dims=2, max_dims=2, max_side=23).flatmap(
    lambda shape: st.one_of(
        hnp.arrays(bool, shape),
        st.lists(st.integers(0, shape[0] * shape[1]), max_size=12).map(lambda edges: between(edges, shape)),
    )
)


def decode_by_loop(runs: str, height: int, width: int) -> NDArray[np.bool_] | None:
    """The definition, pixel by pixel; None where the runs break a rule. It shares nothing with the module."""
    words, free = runs.split(), 1
    if len(words) % 2 or not all(re.fullmatch("[+-]?[0-9]+", word) for word in words):
        return None
    mask = np.zeros((height, width), bool)
    for start, length in zip(map(int, words[::2]), map(int, words[1::2]), strict=True):
        if start < free or length < 1 or start + length - 1 > mask.size:
            return None
        free = start + length
        for pixel in range(start - 1, free - 1):
            mask[pixel % height, pixel // height] = True
    return mask


def test_pixels_count_from_one_down_the_columns() -> None:
    mask = np.array([[0, 1, 0], [1, 1, 0]], bool)
    assert encode(mask) == "2 3"
    assert decode("2 3", 2, 3).tolist() == mask.tolist()
    assert decode("1 2 3 4", 4, 4).sum() == 6  # runs may touch
    assert decode("1 1 6 1", 2, 3).tolist() == [[True, False, False], [False, False, True]]


@pytest.mark.parametrize("runs", ["", " ", "\n"])
def test_no_runs_are_an_empty_mask(runs: str) -> None:
    assert not decode(runs, 3, 5).any()
    assert encode(np.zeros((3, 5), bool)) == ""


def assert_round_trip(mask: NDArray[np.bool_]) -> None:
    runs = encode(mask)
    for decoded in (decode(runs, *mask.shape), decode_by_loop(runs, *mask.shape)):
        assert decoded is not None
        assert np.array_equal(decoded, mask)


@given(MASKS)
@settings(max_examples=300, deadline=None)
def test_round_trip_is_exact(mask: NDArray[np.bool_]) -> None:
    assert_round_trip(mask)


@pytest.mark.slow
@given(MASKS)
@settings(max_examples=10_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_round_trip_is_exact_for_many_masks(mask: NDArray[np.bool_]) -> None:
    assert_round_trip(mask)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ("1 2 3", "3 numbers are no pairs"),
        ("7", "1 numbers are no pairs"),
        ("0 2", "run 1 starts at 0"),
        ("-3 2", "run 1 starts at -3"),
        ("21 1", "run 1 starts at 21, and starts go from 1 to 20"),
        ("1 1 3 0", "run 2 has length 0"),
        ("1 1 3 -2", "run 2 has length -2"),
        ("1 1 3 99", "run 2 has length 99"),
        ("1 1 18 4", "run 2 ends at pixel 21 of 20"),
        ("1 1 99999999999999999999 1", "run 2 starts at"),
        ("9223372036854775807 9223372036854775807", "run 1 starts at"),
        ("5 4 8 2", "run 2 starts at 8 and overlaps run 1, which ends at 8"),
        ("5 4 5 4", "run 2 starts at 5 and overlaps run 1"),
        ("9 2 1 3", "run 2 starts at 1, before run 1"),
        ("18 9 1 3", "run 1 ends at pixel 26 of 20"),
        ("1 two", "'two' is not a whole number"),
        ("1 2.5", "'2.5' is not a whole number"),
        ("1,2", "'1,2' is not a whole number"),
        ("nan nan", "'nan' is not a whole number"),
        ("1 2 \x00", "is not a whole number"),
        ("١ 2", "is not a whole number"),
    ],
)
def test_wrong_runs_are_named(runs: str, message: str) -> None:
    with pytest.raises(RleError, match=re.escape(message)) as caught:
        decode(runs, 4, 5)
    assert "\n" not in str(caught.value)


@given(st.one_of(st.text(max_size=20), st.lists(st.integers(-2, 25).map(str), max_size=8).map(" ".join)))
@settings(max_examples=300, deadline=None)
def test_any_text_is_decoded_correctly_or_refused(runs: str) -> None:
    expected = decode_by_loop(runs, 4, 5)
    if expected is None:
        with pytest.raises(RleError):
            decode(runs, 4, 5)
    else:
        assert np.array_equal(decode(runs, 4, 5), expected)


def test_real_rows_encode_back_to_the_letter(archives: Path) -> None:
    archive = zipfile.ZipFile(archives / "severstal-steel-defect-detection.zip")
    rows = list(csv.DictReader(io.StringIO(archive.read("train.csv").decode())))
    assert len(rows) == 172
    for row in rows:
        mask = decode(row["EncodedPixels"], 256, 1600)
        assert encode(mask) == row["EncodedPixels"]
