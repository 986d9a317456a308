import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from dbrnet.registry.store import Store, open_store

ModelMaker = Callable[[int], Path]


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables, made once: making it takes 3 s, copying it nothing."""
    root = tmp_path_factory.mktemp("migrated")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        _ = open_store(root).client
    return root / "mlflow.db"


@pytest.fixture
def store(migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    root = tmp_path / "project"
    root.mkdir()
    shutil.copyfile(migrated_database, root / "mlflow.db")
    return open_store(root)


@pytest.fixture
def make_model(tmp_path: Path) -> ModelMaker:
    """Tiny ONNX models with the deployed graph's input and outputs; another `mark`, another digest."""

    def make(mark: int) -> Path:
        sizes = ["N", "H", "W"]
        graph = helper.make_graph(
            [
                helper.make_node("Gather", ["image", "channel"], ["mask"], axis=3),
                helper.make_node("Cast", ["mask"], ["confidence"], to=TensorProto.FLOAT),
            ],
            "tiny",
            [helper.make_tensor_value_info("image", TensorProto.UINT8, [*sizes, 3])],
            [
                helper.make_tensor_value_info("mask", TensorProto.UINT8, sizes),
                helper.make_tensor_value_info("confidence", TensorProto.FLOAT, sizes),
            ],
            [helper.make_tensor("channel", TensorProto.INT64, [], [1])],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        helper.set_model_props(model, {"mark": str(mark)})
        path = tmp_path / f"model{mark}.onnx"
        onnx.save_model(model, path)
        return path

    return make


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def away_address() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="session")
def mlflow_server(migrated_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a real `mlflow server` that also serves the artifacts."""
    root = tmp_path_factory.mktemp("server")
    shutil.copyfile(migrated_database, root / "mlflow.db")
    port = free_port()
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{root / 'mlflow.db'}", "--workers", "1"]
    command += ["--artifacts-destination", str(root / "artifacts")]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 90
            while True:
                try:
                    with urllib.request.urlopen(f"{address}/health", timeout=5):
                        break
                except OSError:
                    assert process.poll() is None, (root / "log").read_text()
                    assert time.monotonic() < deadline, (root / "log").read_text()
                    time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)
