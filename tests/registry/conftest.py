import shutil
from collections.abc import Callable
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
    """Tiny ONNX models with the deployed graph's input and outputs; another `mark`, another network."""

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
            [
                helper.make_tensor("channel", TensorProto.INT64, [], [1]),
                helper.make_tensor("mark", TensorProto.INT64, [], [mark]),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        path = tmp_path / f"model{mark}.onnx"
        onnx.save_model(model, path)
        return path

    return make
