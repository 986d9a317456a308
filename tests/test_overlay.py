import numpy as np

from dbrnet.data.dataset import ClassInfo
from dbrnet.overlay import add_legend, blend

CLASSES = (ClassInfo("background", (9, 9, 9)), ClassInfo("crack", (255, 0, 0)))


def test_defects_are_tinted_and_outlined_and_the_background_is_unchanged() -> None:
    image = np.full((40, 60, 3), 100, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 10:30] = 1
    drawn = blend(image, mask, CLASSES)
    assert (drawn[mask == 0] == 100).all()
    assert drawn[10, 10].tolist() == [255, 0, 0]
    red, green, blue = drawn[15, 20].tolist()
    assert red > 150 > 100 > green == blue
    assert (image == 100).all()


def test_the_legend_names_the_classes_present() -> None:
    image = np.full((40, 60, 3), 100, np.uint8)
    assert add_legend(image, CLASSES, np.array([0])) is image
    with_legend = add_legend(image, CLASSES, np.array([0, 1]))
    assert with_legend.shape == (56, 60, 3)
    assert (with_legend[40:] == (255, 0, 0)).all(axis=-1).any()
