import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from dbrnet.config import load_params
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import split_samples
from dbrnet.data.synthetic import generate
from dbrnet.registry.store import Store, open_store
from dbrnet.steps.ingest import ingest
from tests.registry.servers import Server
from tests.registry.training_project import PARAMS, Project

ModelMaker = Callable[[int], Path]


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


@pytest.fixture
def server(tmp_path: Path, migrated_database: Path) -> Iterator[Server]:
    (tmp_path / "server").mkdir()
    made = Server(tmp_path / "server", migrated_database)
    yield made
    made.kill()


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a `dataset` of 32 images and its `split`."""
    root = tmp_path_factory.mktemp("prepared")
    generate(root / "source", images=32)
    ingest(load_params(PARAMS).ingest.model_copy(update={"source": str(root / "source")}), out=root / "dataset")
    data = Dataset.load(root / "dataset")
    groups = {sample.id: sample.group for sample in data.samples}
    made = split_samples(data, groups, kind="random", fractions=(0.5, 0.25, 0.25), seed=4)
    made = replace(made, disputed=(made.ids["train"][0], made.ids["val"][0]))
    (root / "split").mkdir()
    made.save(root / "split")
    return root


@pytest.fixture
def project(tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    return Project(folder, prepared, monkeypatch)


@pytest.fixture
def filed(project: Project, migrated_database: Path) -> Project:
    """A project whose store is a file."""
    shutil.copyfile(migrated_database, project.folder / "mlflow.db")
    return project
