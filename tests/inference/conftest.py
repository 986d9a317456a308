"""The fixture network in its usual runtime, and images and videos as files."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch

from dbrnet.data.dataset import Image
from dbrnet.files import MARKER
from dbrnet.inference.runtimes import open_model
from dbrnet.inference.runtimes.base import Model
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta

FOUR_CC = {".mp4": "mp4v", ".avi": "MJPG", ".mkv": "mp4v", ".webm": "VP80", ".mov": "mp4v"}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def model(exported: tuple[Path, DBRNet, ModelMeta]) -> Model:
    return open_model(exported[0], threads=1)


def save(path: Path, image: Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return path


def save_video(path: Path, frames: list[Image]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*FOUR_CC[path.suffix]), 25, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    writer.release()
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}
