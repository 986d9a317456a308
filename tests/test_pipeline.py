"""The whole job through DVC in a clone of its own, on a few built-in pictures and a training of seconds."""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dbrnet.cli import STEPS, main
from dbrnet.data.split import Split
from dbrnet.files import sha256_file

ROOT = Path(__file__).parents[1]
STAGES = [step for step in STEPS if step != "drift"]  # drift asks whether to run the others
QUICK = {
    "  epochs: ": "  epochs: 2 #",
    "  crop: [128, 224] ": "  crop: [64, 64] #",
    "  seconds: 1.0 ": "  seconds: 0.2 #",
    ", openvino-int8]": "]",
    "  gallery: 4 ": "  gallery: 1 #",
    "  min_miou: 0.75": "  min_miou: 0.0",
    "  min_iou: 0.5 ": "  min_iou: null #",
    "  min_defect_recall: 0.6 ": "  min_defect_recall: null #",
    "  max_false_alarms: 0.5 ": "  max_false_alarms: null #",
    "  min_fps: 10.0": "  min_fps: 0.01",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Workspace:
    """A copy of what the pipeline needs, with DVC's state of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("dbrnet", "recipes", ".dvc/config"):
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, folder / name)
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        self.set_params(QUICK)

    def set_params(self, changes: Mapping[str, str]) -> None:
        path = self.folder / "params.yaml"
        text = path.read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new, 1)
        path.write_text(text)

    def run(self, *words: str) -> str:
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        environment |= {
            "PYTHONPATH": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}",
            "OMP_NUM_THREADS": "2",
        }
        done = subprocess.run(words, cwd=self.folder, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def repro(self) -> list[str]:
        """Run the pipeline; the steps that ran."""
        output = self.run("dvc", "repro")
        return [step for step in STAGES if f"Running stage '{step}'" in output]

    def json(self, path: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / path).read_text())
        return loaded


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The pipeline, run once."""
    space = Workspace(tmp_path_factory.mktemp("clone"))
    main(["generate", "--out", str(space.folder / "data/steel-strip"), "--count", "60"])
    assert space.repro() == STAGES
    return space


def test_the_answer_is_there_with_all_it_rests_on(workspace: Workspace) -> None:
    decision = workspace.json("artifacts/promote/decision.json")
    assert decision["answer"] == "promoted"
    assert decision["promotion"]["champion_after"] == 1
    metrics = workspace.json("artifacts/evaluate/metrics.json")
    card = workspace.json("data/dataset/card.json")
    assert metrics["dataset"]["content_hash"] == card["content_hash"]
    lock = (workspace.folder / "dvc.lock").read_text()
    revision = metrics["dataset"]["dvc"]
    assert isinstance(revision, dict)
    assert revision["source"] == "data/steel-strip"
    assert f"md5: {revision['source_hash']}" in lock
    assert f"md5: {revision['dataset']}" in lock
    assert metrics["split"]["leaks"] == "no"
    audit = workspace.json("data/split/audit.json")
    assert audit["leaking"] == {"val": 0, "test": 0}
    assert metrics["look_up"] == audit["look_up"]
    assert "show what a training picture shows" in (workspace.folder / "data/split/audit.html").read_text()
    assert metrics["model_sha256"] == workspace.json("artifacts/benchmark/benchmark.json")["model_sha256"]
    summary = (workspace.folder / "artifacts/promote/summary.txt").read_text()
    for words in (
        "promoted",
        "with no learning",
        "mIoU",
        "IoU",
        "frames per second",
        "report.html",
        "make ui",
    ):
        assert words in summary
    report = (workspace.folder / "artifacts/evaluate/report.html").read_text()
    assert str(card["content_hash"]) in report


def test_nothing_changed_nothing_redone(workspace: Workspace) -> None:
    """But for asking the registry who is champion: the candidate itself now, so it is compared as before."""
    for path in (workspace.folder / "data/steel-strip").rglob("*.jpg"):
        path.touch()
    assert workspace.repro() == ["champion"]


def test_stricter_thresholds_reject_and_move_no_alias(workspace: Workspace) -> None:
    workspace.set_params({"min_miou: 0.0": "min_miou: 0.999"})
    assert workspace.repro() == ["champion", "promote"]
    decision = workspace.json("artifacts/promote/decision.json")
    assert decision["answer"] == "rejected"
    assert decision["promotion"]["champion_after"] == 1
    workspace.set_params({"min_miou: 0.999": "min_miou: 0.0"})


def average_lost(graph: onnx.GraphProto) -> None:
    """Pictures are not normalised: their average is not taken off."""
    scale_tensor(graph, "average", 0)


def flow_swapped(graph: onnx.GraphProto) -> None:
    """y first: the flow convolution's two channels change places."""
    for tensor in graph.initializer:
        if tensor.name == "network.fusion.flow.weight":
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values[::-1].copy(), tensor.name))


def context_resized_from_corners(graph: onnx.GraphProto) -> None:
    """The last map is resized as if its corners were the picture's."""
    node = [node for node in graph.node if node.op_type == "Resize"][-1]
    for entry in node.attribute:
        if entry.name == "coordinate_transformation_mode":
            entry.s = b"align_corners"


def scale_tensor(graph: onnx.GraphProto, name: str, factor: float) -> None:
    (tensor,) = (tensor for tensor in graph.initializer if tensor.name == name)
    values = numpy_helper.to_array(tensor) * np.float32(factor)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


@pytest.mark.parametrize("fault", [average_lost, flow_swapped, context_resized_from_corners])
def test_the_gate_refuses_a_faulty_export(
    workspace: Workspace, tmp_path: Path, fault: Callable[[onnx.GraphProto], None]
) -> None:
    """The steps after the export, on a file with a fault that its author would not see."""
    exported = tmp_path / "export"
    shutil.copytree(workspace.folder / "artifacts/export", exported)
    model = onnx.load_model(exported / "model.onnx")
    before = model.SerializeToString()
    fault(model.graph)
    assert model.SerializeToString() != before
    onnx.save_model(model, exported / "model.onnx")
    facts = json.loads((exported / "export.json").read_text())
    facts["model_sha256"] = sha256_file(exported / "model.onnx")
    (exported / "export.json").write_text(json.dumps(facts))
    names = ("champion", "evaluate", "benchmark", "promote")
    champion, evaluated, benchmarked, out = (str(tmp_path / name) for name in names)
    data = ["data/dataset", "data/split", "artifacts/train", str(exported), champion]
    workspace.run("dbrnet", "champion", "--exported", str(exported), "--out", champion)
    workspace.run("dbrnet", "evaluate", *data, "--out", evaluated)
    workspace.run("dbrnet", "benchmark", *data, evaluated, "--out", benchmarked)
    workspace.run("dbrnet", "promote", *data, evaluated, benchmarked, "--out", out)
    decision = json.loads((tmp_path / "promote/decision.json").read_text())
    assert decision["answer"] == "rejected"
    assert any("onnxruntime-cpu: largest logit difference" in reason for reason in decision["reasons"])
    assert decision["promotion"]["champion_after"] == 1


def test_the_champion_is_all_that_drift_and_the_next_split_need(workspace: Workspace) -> None:
    """Not its dataset, of which the registry keeps the tables: its pictures come again, and 50 others."""
    workspace.run("dbrnet", "champion", "--out", "former")
    former = Split.load(workspace.folder / "former")
    assert former == Split.load(workspace.folder / "data/split")
    workspace.run("dbrnet", "generate", "--out", "line", "--count", "50", "--seed", "7")
    answers = {}
    for current in ("data/dataset", "line/train_images"):
        workspace.run("dbrnet", "drift", current, "former", "--out", "drift")
        answers[current] = workspace.json("drift/drift.json")
    same, others = answers.values()
    assert (same["answer"], same["reasons"]) == ("no", [])
    assert same["pictures"].items() >= {"reference": 60, "known": 60, "new": 0}.items()
    assert others["pictures"].items() >= {"reference": 60, "known": 0, "new": 50}.items()
    checks = {check["name"]: check for check in others["checks"]}
    with (workspace.folder / "artifacts/evaluate/pictures.csv").open(newline="") as file:
        confidences = [float(row["confidence"]) for row in csv.DictReader(file)]
    assert min(confidences) <= checks["confidence"]["before"] <= max(confidences)
    assert 0 < checks["confidence"]["now"] < 1


def test_the_champion_predicts_pictures(workspace: Workspace) -> None:
    workspace.run(
        *("dbrnet", "predict", "data/steel-strip/train_images", "--out", "answers"),
        *("--model", "models:/dbrnet-steel-strip@champion"),
    )
    pictures = list((workspace.folder / "data/steel-strip/train_images").iterdir())
    assert len(list((workspace.folder / "answers/masks").glob("*.png"))) == len(pictures)
    assert len(list((workspace.folder / "answers/overlays").glob("*.jpg"))) == len(pictures)


def test_changed_content_and_only_that_is_ingested_again(workspace: Workspace) -> None:
    moved = workspace.folder / "data/steel-strip/train.csv"
    rows = moved.read_text().splitlines()
    moved.write_text("\n".join(rows[:-1]) + "\n")  # the last picture's last defect is withdrawn
    before = workspace.json("data/dataset/card.json")["content_hash"]
    assert workspace.repro()[0] == "ingest"
    assert workspace.json("data/dataset/card.json")["content_hash"] != before
