"""The whole job through DVC in a clone of its own, on a few built-in images and a training of seconds."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from dbrnet.cli import main
from dbrnet.data.split import Split
from dbrnet.files import read_json, sha256_file
from dbrnet.registry.store import open_store
from dbrnet.registry.tracking import start_or_resume_run
from tests.workspace import STAGES, Workspace, tasks_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


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
    assert metrics["nn_baseline"] == audit["nn_baseline"]
    assert "have a near-duplicate in train" in (workspace.folder / "data/split/audit.html").read_text()
    assert metrics["model_sha256"] == workspace.json("artifacts/benchmark/benchmark.json")["model_sha256"]
    summary = (workspace.folder / "artifacts/promote/summary.txt").read_text()
    for words in ("promoted", "with no learning", "mIoU", "IoU", "frames per second", "report.html", "make ui"):
        assert words in summary
    report = (workspace.folder / "artifacts/evaluate/report.html").read_text()
    assert str(card["content_hash"]) in report


def test_nothing_changed_nothing_redone(workspace: Workspace) -> None:
    """But for asking the registry who is champion: the candidate itself now, so it is compared as before."""
    for path in (workspace.folder / "data/steel-strip").rglob("*.jpg"):
        path.touch()
    assert workspace.repro() == ["fetch-champion"]


def test_stricter_thresholds_reject_and_move_no_alias(workspace: Workspace) -> None:
    workspace.set_params({"min_miou: 0.0": "min_miou: 0.999"})
    assert workspace.repro() == ["fetch-champion", "promote"]
    decision = workspace.json("artifacts/promote/decision.json")
    assert decision["answer"] == "rejected"
    assert decision["promotion"]["champion_after"] == 1
    workspace.set_params({"min_miou: 0.999": "min_miou: 0.0"})


def average_lost(graph: onnx.GraphProto) -> None:
    """Images are not normalised: their average is not taken off."""
    scale_tensor(graph, "average", 0)


def flow_swapped(graph: onnx.GraphProto) -> None:
    """y first: the flow convolution's two channels change places."""
    for tensor in graph.initializer:
        if tensor.name == "network.fusion.flow.weight":
            values = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(values[::-1].copy(), tensor.name))


def context_resized_from_corners(graph: onnx.GraphProto) -> None:
    """The last map is resized as if its corners were the image's."""
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
    workspace.run("dbrnet", "fetch-champion", "--exported", str(exported), "--out", champion)
    workspace.run("dbrnet", "evaluate", *data, "--out", evaluated)
    workspace.run("dbrnet", "benchmark", *data, evaluated, "--out", benchmarked)
    workspace.run("dbrnet", "promote", *data, evaluated, benchmarked, "--out", out)
    decision = json.loads((tmp_path / "promote/decision.json").read_text())
    assert decision["answer"] == "rejected"
    assert any("onnxruntime-cpu: largest logit difference" in reason for reason in decision["reasons"])
    assert decision["promotion"]["champion_after"] == 1


def test_the_champion_is_all_that_drift_and_the_next_split_need(workspace: Workspace) -> None:
    """Not its dataset, of which the registry keeps the tables: its images come again, and 50 others."""
    workspace.run("dbrnet", "fetch-champion", "--out", "previous")
    previous = Split.load(workspace.folder / "previous")
    assert previous == Split.load(workspace.folder / "data/split")
    workspace.run("dbrnet", "generate", "--out", "line", "--count", "50", "--seed", "7")
    answers = {}
    for current in ("data/dataset", "line/train_images"):
        workspace.run("dbrnet", "drift", current, "previous", "--out", "drift")
        answers[current] = workspace.json("drift/drift.json")
    same, others = answers.values()
    assert (same["answer"], same["reasons"]) == ("no", [])
    assert same["images"].items() >= {"reference": 60, "known": 60, "new": 0}.items()
    assert others["images"].items() >= {"reference": 60, "known": 0, "new": 50}.items()
    checks = {check["name"]: check for check in others["checks"]}
    with (workspace.folder / "artifacts/evaluate/images.csv").open(newline="") as file:
        confidences = [float(row["confidence"]) for row in csv.DictReader(file)]
    assert min(confidences) <= checks["confidence"]["before"] <= max(confidences)
    assert 0 < checks["confidence"]["now"] < 1


def test_the_champion_predicts_images(workspace: Workspace) -> None:
    workspace.run(
        *("dbrnet", "predict", "data/steel-strip/train_images", "--out", "answers"),
        *("--model", "models:/dbrnet-steel-strip@champion"),
    )
    images = list((workspace.folder / "data/steel-strip/train_images").iterdir())
    assert len(list((workspace.folder / "answers/masks").glob("*.png"))) == len(images)
    assert len(list((workspace.folder / "answers/overlays").glob("*.jpg"))) == len(images)


def test_a_changed_audit_page_is_written_again_and_trains_nothing(workspace: Workspace) -> None:
    with (workspace.folder / "dbrnet/reports/templates/page.css").open("a") as style:
        style.write("/* changed */\n")
    output = workspace.run("dvc", "repro", "export")
    assert [step for step in STAGES if f"Running stage '{step}'" in output] == ["split"]
    assert "/* changed */" in (workspace.folder / "data/split/audit.html").read_text()


def test_changed_content_and_only_that_is_ingested_again(workspace: Workspace) -> None:
    moved = workspace.folder / "data/steel-strip/train.csv"
    rows = moved.read_text().splitlines()
    moved.write_text("\n".join(rows[:-1]) + "\n")  # the last image's last defect is withdrawn
    before = workspace.json("data/dataset/card.json")["content_hash"]
    assert workspace.repro()[0] == "ingest"
    assert workspace.json("data/dataset/card.json")["content_hash"] != before


def test_kubeflow_gives_the_same_figures_and_joins_the_run_it_is_given(workspace: Workspace) -> None:
    """To the digit: the same parameters, data and seed by Kubeflow's local runner, into the same registry."""
    store = open_store(workspace.folder)
    parent = start_or_resume_run(store, "of the cluster", run_id=None, name="the pipeline", tags={})
    beneath = {"mlflow.parentRunId": parent.run_id}
    given = start_or_resume_run(store, "of the cluster", run_id=None, name="its name", tags=beneath)
    as_the_plugin_sets_them = {
        "MLFLOW_RUN_ID": given.run_id,
        "MLFLOW_EXPERIMENT_ID": given.experiment_id,
        "MLFLOW_TRACKING_URI": store.uri,
    }
    output = workspace.run("python", "-m", "pipelines", "run", "--local", status=0, **as_the_plugin_sets_them)
    assert tasks_run(output) == ["revision", *STAGES]
    evaluated = workspace.artifact("evaluate/evaluated")
    by_dvc, by_kubeflow = (
        read_json(folder / "metrics.json") for folder in (workspace.folder / "artifacts/evaluate", evaluated)
    )
    for what in ("scores", "figures", "confusion", "defects", "nn_baseline", "bootstrap"):
        assert by_kubeflow[what] == by_dvc[what], what
    rows = [(folder / "images.csv").read_text() for folder in (workspace.folder / "artifacts/evaluate", evaluated)]
    assert rows[0] == rows[1]
    shown = read_json(evaluated.with_name("executor_output.json"))["artifacts"]
    (metrics,), (confusion,) = (shown[name]["artifacts"] for name in ("metrics", "confusion"))
    assert (
        metrics["metadata"].items()
        >= {
            **{name: by_dvc["figures"][name]["value"] for name in ("miou", "miou_defects", "defect_recall")},
            "nn_baseline_miou": by_dvc["nn_baseline"]["miou"],
            "leaks": "no",
            "split": "groups, seed 0",
            "dataset_hash": by_dvc["dataset"]["content_hash"],
        }.items()
    )
    rows = [row["row"] for row in confusion["metadata"]["confusionMatrix"]["rows"]]
    assert rows == by_dvc["confusion"]
    assert evaluated.with_name("report").read_bytes() == (evaluated / "report.html").read_bytes()
    assert read_json(workspace.artifact("train/trained") / "train.json")["run_id"] == given.run_id
    run = store.client.get_run(given.run_id)
    assert run.info.run_name == "its name"
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.info.experiment_id == parent.experiment_id
    assert run.data.metrics["test_miou"] == by_dvc["figures"]["miou"]["value"]
    decision = read_json(workspace.artifact("promote/decision") / "decision.json")
    assert decision["promotion"]["model_name"] == "dbrnet-steel-strip"
    assert decision["promotion"]["champion_before"] is not None
