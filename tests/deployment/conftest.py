"""One network with lively weights, exported once for all tests of the room."""

from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from dbrnet.data.dataset import ClassInfo, Image
from dbrnet.deployment.export import export_onnx
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta

Exported = tuple[Path, DBRNet, ModelMeta]  # the file, and the network that it was made of

CLASSES = (
    ClassInfo("background", (0, 0, 0)),
    ClassInfo("crack", (230, 60, 40)),
    ClassInfo("pit", (40, 200, 90)),
    ClassInfo("scratch", (60, 90, 240)),
)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _network() -> DBRNet:
    """A network whose batch norms all differ from the identity, with logits as large as trained ones."""
    torch.manual_seed(0)
    model = DBRNet(len(CLASSES))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.4, 0.8)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    nn.init.normal_(model.head.body[-1].weight, std=0.7)  # type: ignore[arg-type]
    return model.eval()


def _export(folder: Path, image_size: tuple[int, int] | None, *, standardised: bool) -> Exported:
    switches = {"lfem": True, "affm": True, "dcppm": True}
    meta = ModelMeta(
        classes=CLASSES, mean=(0.30, 0.45, 0.60), std=(0.15, 0.20, 0.25), image_size=image_size,
        standardised=standardised, **switches
    )  # fmt: skip
    model = _network()
    path = folder / "model.onnx"
    export_onnx(model, meta, path, metadata={"dataset_content_hash": "4d5e"})
    return path, model, meta


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export(tmp_path_factory.mktemp("native"), None, standardised=False)


@pytest.fixture(scope="session")
def exported_with_all(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """At a fixed size, and standardised."""
    return _export(tmp_path_factory.mktemp("all"), (96, 160), standardised=True)


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image]:
    """Makes a coloured picture [height, width, 3] with uneven light and grain."""

    def make(height: int, width: int, seed: int = 0) -> Image:
        random = np.random.default_rng(seed)
        rough = random.uniform(0, 255, (5, 7, 3)).astype(np.float32)
        light = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
        return np.clip(light + random.normal(0, 12, light.shape), 0, 255).astype(np.uint8)

    return make
