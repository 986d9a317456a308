from pathlib import Path

import cv2
import numpy as np
import pytest

from dbrnet.data.readers.reader import find_layout, pair_by_stem, read_whole
from dbrnet.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)


def _encoded(suffix: str) -> bytes:
    return cv2.imencode(suffix, PIXELS)[1].tobytes()


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_whole_files_pass_also_with_bytes_behind_them(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    for trailer in (b"", b"\n", bytes(40)):
        path.write_bytes(_encoded(suffix) + trailer)
        assert read_whole(path) == _encoded(suffix) + trailer


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, 0.999])
def test_files_cut_short_are_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path = tmp_path / f"picture{suffix}"
    content = _encoded(suffix)
    for padding in (b"", bytes(2000)):  # zeros: what some systems leave after a crash
        path.write_bytes(content[: int(len(content) * kept)] + padding)
        with pytest.raises(UserError, match=rf"picture\{suffix} is cut short"):
            read_whole(path)


def test_a_thumbnails_end_is_not_taken_for_the_pictures(tmp_path: Path) -> None:
    thumbnail = b"Exif\0\0" + cv2.imencode(".jpg", PIXELS[:8, :8])[1].tobytes()
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = _encoded(".jpg")
    path = tmp_path / "camera.jpg"
    path.write_bytes(whole[:2] + segment + whole[2:])
    read_whole(path)
    path.write_bytes(whole[:2] + segment + whole[2:-100])
    with pytest.raises(UserError, match="cut short"):
        read_whole(path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PN", b"no picture"])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "picture.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"picture\.jpg is not a JPEG or PNG"):
        read_whole(tmp_path / "picture.jpg")


def test_the_layout_is_found_below_wrapping_folders(tmp_path: Path) -> None:
    for name in ("images", "annotations"):
        (tmp_path / "outer" / "NEU_Seg-main" / name).mkdir(parents=True)
    (tmp_path / "__MACOSX").mkdir()
    expected = tmp_path / "outer" / "NEU_Seg-main"
    for start in (tmp_path, tmp_path / "outer", expected):
        assert find_layout(start, ("images", "annotations")) == expected


def test_a_layout_that_is_missing_or_doubled_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="no folder holds images and annotations"):
        find_layout(tmp_path, ("images", "annotations"))
    (tmp_path / "b" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="a and b both look like the dataset"):
        find_layout(tmp_path, ("images",))


def test_pairs_are_by_name_and_complete() -> None:
    folder = Path("top")
    images = [folder / "images/2.jpg", folder / "images/1.jpg"]
    masks = [folder / "masks/1.png", folder / "masks/2.png"]
    assert pair_by_stem(images, masks, folder) == [(images[1], masks[0]), (images[0], masks[1])]
    with pytest.raises(UserError, match=r"images/2\.jpg has no mask"):
        pair_by_stem(images, masks[:1], folder)
    with pytest.raises(UserError, match=r"masks/1\.png is a mask without a picture"):
        pair_by_stem(images[:1], masks, folder)
