from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dbrnet.data.dataset import Image
from dbrnet.errors import UserError
from dbrnet.inference.video import declared_frames, read_frames
from tests.inference.conftest import FOUR_CC, save_video

FRAMES = [np.full((64, 96, 3), (20 * number, 255 - 20 * number, 40), np.uint8) for number in range(12)]


@pytest.mark.parametrize("suffix", FOUR_CC)
def test_each_frame_comes_once_in_order_and_as_rgb(tmp_path: Path, suffix: str) -> None:
    path = save_video(tmp_path / f"clip{suffix}", FRAMES)
    found = list(read_frames(path, "clip"))
    assert declared_frames(path) == len(found) == len(FRAMES)
    for frame, expected in zip(found, FRAMES, strict=True):
        assert frame.dtype == np.uint8
        assert frame.shape == expected.shape
        assert np.abs(frame.mean((0, 1)) - expected.mean((0, 1))).max() < 12  # video compression


@pytest.mark.parametrize("suffix", FOUR_CC)
def test_a_video_cut_short_gives_its_frames_and_then_an_error(
    tmp_path: Path, suffix: str, make_image: Callable[..., Image]
) -> None:
    path = save_video(tmp_path / f"clip{suffix}", [make_image(64, 96, seed) for seed in range(12)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    read = 0
    with pytest.raises(UserError, match=r"^clip: (not a readable video|only \d+ of the 12 frames)"):
        for _ in read_frames(path, "clip"):
            read += 1
    assert read < 12
    assert (read > 0) == (suffix not in {".mp4", ".mov"})  # those have their table at the end


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".webm"])
def test_a_damaged_frame_is_missed(tmp_path: Path, suffix: str, make_image: Callable[..., Image]) -> None:
    path = save_video(tmp_path / f"clip{suffix}", [make_image(64, 96, seed) for seed in range(12)])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^clip: only \d+ of the 12 frames declared can be read"):
        list(read_frames(path, "clip"))


def test_a_playlist_that_calls_itself_a_video_is_not_followed(tmp_path: Path) -> None:
    save_video(tmp_path / "other.avi", FRAMES)
    (tmp_path / "list.avi").write_text("ffconcat version 1.0\nfile other.avi\n")
    (tmp_path / "empty.mp4").touch()
    for path in (tmp_path / "list.avi", tmp_path / "empty.mp4", tmp_path / "gone.mp4"):
        assert declared_frames(path) == 0
        with pytest.raises(UserError, match=r"^x: not a readable video"):
            list(read_frames(path, "x"))
