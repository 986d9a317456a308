"""The frames of a video file, in order, each as an image."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from dbrnet.data.dataset import Image
from dbrnet.errors import UserError

VIDEO_SUFFIXES = frozenset({".avi", ".mkv", ".mov", ".mp4", ".webm"})


def declared_frames(path: Path) -> int:
    """How many frames the file says it has; 0 where it cannot be read or does not say."""
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return max(0, frames)


def read_frames(path: Path, name: str) -> Iterator[Image]:
    """Each frame as RGB uint8 [H, W, 3], turned as the file says.

    Raises `UserError` that begins with `name` where the file is no video, and, after the last frame, where
    fewer came than it declares: the decoder passes over those that are damaged and says nothing.
    """
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise UserError(f"{name}: not a readable video (truncated, or of another kind)")
        declared, read = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        while (frame := capture.read()[1]) is not None:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            read += 1
    finally:
        capture.release()
    if read < declared or not read:
        raise UserError(
            f"{name}: only {read} of the {declared} frames declared can be read; it is damaged or cut short"
        )
