import numpy as np

from dbrnet.audit.matching import SYMMETRIES


def test_eight_symmetries_differ_and_each_has_an_inverse() -> None:
    array = np.arange(12).reshape(3, 4)
    laid = [np.ascontiguousarray(symmetry.apply(array)) for symmetry in SYMMETRIES]
    assert len({(image.shape, image.tobytes()) for image in laid}) == 8
    for symmetry, image in zip(SYMMETRIES, laid, strict=True):
        np.testing.assert_array_equal(symmetry.inverse.apply(image), array)


def test_symmetries_are_named() -> None:
    assert [str(symmetry) for symmetry in SYMMETRIES[:2]] == ["as it is", "turned 90°"]
    assert str(SYMMETRIES[6]) == "mirrored, turned 180°"
