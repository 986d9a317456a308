from pathlib import Path

import cv2
import numpy as np
import pytest

from dbrnet.data.pictures import read_whole
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
