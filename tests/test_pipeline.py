"""The whole job through DVC in a clone of its own, on a few built-in pictures and a training of seconds."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from dbrnet.cli import STEPS, main

ROOT = Path(__file__).parents[1]
STAGES = [step for step in STEPS if step != "drift"]  # drift asks whether to run the others
QUICK = {
    "  epochs: ": "  epochs: 2 #",
    "  crop: [128, 224] ": "  crop: [64, 64] #",
    "  seconds: 5.0 ": "  seconds: 0.2 #",
    "  parity_images: 32 ": "  parity_images: 2 #",
    "  gallery: 4 ": "  gallery: 1 #",
    "  min_miou: 0.75": "  min_miou: 0.0",
    "  min_fps: 10.0": "  min_fps: 0.01",
    "  max_logit_difference: 0.001": "  max_logit_difference: 1e6",
    "  min_equal_pixels: 0.9999": "  min_equal_pixels: 0.0",
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

    def json(self, path: str) -> dict[str, dict[str, object]]:
        loaded: dict[str, dict[str, object]] = json.loads((self.folder / path).read_text())
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
    for path in (workspace.folder / "data/steel-strip").rglob("*.jpg"):
        path.touch()
    assert workspace.repro() == []


def test_stricter_thresholds_reject_and_move_no_alias(workspace: Workspace) -> None:
    workspace.set_params({"min_miou: 0.0": "min_miou: 0.999"})
    assert workspace.repro() == ["promote"]
    decision = workspace.json("artifacts/promote/decision.json")
    assert decision["answer"] == "rejected"
    assert decision["promotion"]["champion_after"] == 1
    workspace.set_params({"min_miou: 0.999": "min_miou: 0.0"})


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
