from pathlib import Path

import pytest

from dbrnet.data.readers import find_layout, pair_by_stem
from dbrnet.errors import UserError


def test_the_layout_is_found_below_wrapping_folders(tmp_path: Path) -> None:
    for name in ("images", "annotations"):
        (tmp_path / "outer" / "NEU_Seg-main" / name).mkdir(parents=True)
    (tmp_path / "__MACOSX").mkdir()
    expected = tmp_path / "outer" / "NEU_Seg-main"
    for start in (tmp_path, tmp_path / "outer", expected):
        assert find_layout(start, ("images", "annotations")) == expected


def test_missing_and_ambiguous_layouts_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="no folder holds images and annotations"):
        find_layout(tmp_path, ("images", "annotations"))
    (tmp_path / "b" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="a and b both look like the dataset"):
        find_layout(tmp_path, ("images",))


def test_images_and_masks_are_paired_by_name() -> None:
    folder = Path("top")
    images = [folder / "images/2.jpg", folder / "images/1.jpg"]
    masks = [folder / "masks/1.png", folder / "masks/2.png"]
    assert pair_by_stem(images, masks, folder) == [(images[1], masks[0]), (images[0], masks[1])]
    with pytest.raises(UserError, match=r"images/2\.jpg has no mask"):
        pair_by_stem(images, masks[:1], folder)
    with pytest.raises(UserError, match=r"masks/1\.png is a mask without an image"):
        pair_by_stem(images[:1], masks, folder)
