import numpy as np

from dbrnet.audit.symmetry import SYMMETRIES


def test_the_eight_differ_and_each_has_its_way_back() -> None:
    array = np.arange(12).reshape(3, 4)
    laid = [symmetry.apply(array) for symmetry in SYMMETRIES]
    assert len({(one.shape, one.tobytes()) for one in map(np.ascontiguousarray, laid)}) == 8
    for symmetry, one in zip(SYMMETRIES, laid, strict=True):
        np.testing.assert_array_equal(symmetry.inverse.apply(one), array)
        assert symmetry.swaps_axes == (one.shape == (4, 3))


def test_they_are_named_as_one_says_it() -> None:
    assert [str(symmetry) for symmetry in SYMMETRIES[:2]] == ["as it is", "turned 90°"]
    assert str(SYMMETRIES[6]) == "mirrored, turned 180°"
