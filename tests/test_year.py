"""A year on a line: twelve retrainings, good and bad, some at once, one killed, with people between them.

Two networks are trained for real, the second on grown data. The other months' are those two again: with noise
on the weights, at another zoom, or the same under another name or in another file.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from ruamel.yaml import YAML

from dbrnet.cli import main
from dbrnet.files import sha256_file, write_json
from dbrnet.models.saved import load_model, save_model
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.store import open_store

ROOT = Path(__file__).parents[1]
NAME = "dbrnet-steel-strip"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]

KILLED_AFTER_THE_ENTRY = """
import os, signal, sys
from dbrnet.cli import main
from dbrnet.registry.ledger import Ledger

append = Ledger.append

def append_and_be_killed(*arguments):
    append(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

Ledger.append = append_and_be_killed
sys.exit(main(sys.argv[1:]))
"""


class Line:
    """The pipeline of one factory line in one folder, run step by step through the command line."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
        self.set("train", steps=110)
        self.set("export", runtimes=["onnxruntime-cpu"])
        self.set("evaluate", gallery=1)
        self.set("benchmark", seconds=2.0)
        self.set(
            "promote",
            min_miou=0.4,
            min_iou=None,
            min_defect_recall=None,
            max_false_positives=None,
            max_miou_loss=0.2,
            min_fps=1.0,
            max_p99_ms=None,
            min_speed_ratio=0.4,
        )

    def set(self, section: str, **values: Any) -> None:
        self.params[section] |= values

    def run(self, *words: object, status: int = 0) -> None:
        assert main([*map(str, words)]) == status, words

    def step(self, step: str, *words: object, out: Path) -> Path:
        self.run(step, *words, "--out", out, "--params", self.written())
        return out

    def written(self) -> Path:
        path = self.folder / f"params-{time.monotonic_ns()}.yaml"
        with path.open("w") as file:
            YAML(typ="safe").dump(self.params, file)
        return path

    def data(self, name: str, images: int, previous: Path | None = None) -> tuple[Path, Path]:
        """Built-in images, ingested and split; the groups of a `previous` split stay in their splits."""
        self.run("generate", "--out", self.folder / name / "source", "--count", images)
        self.set("ingest", source=str(self.folder / name / "source"))
        self.set("split", previous=None if previous is None else str(previous))
        dataset = self.step("ingest", out=self.folder / name / "dataset")
        return dataset, self.step("split", dataset, out=self.folder / name / "split")

    def measure(self, data: tuple[Path, Path], trained: Path, month: str, exported: Path | None = None) -> Path:
        """From the trained network (or its exported file) to all that the gate wants to know."""
        folder = self.folder / month
        exported = exported or self.step("export", *data, trained, out=folder / "export")
        champion = self.step("fetch-champion", "--exported", exported, out=folder / "champion")
        words = (*data, trained, exported, champion)
        evaluated = self.step("evaluate", *words, out=folder / "evaluate")
        self.step("benchmark", *words, evaluated, out=folder / "benchmark")
        write_json(folder / "words.json", [str(word) for word in (*words, evaluated, folder / "benchmark")])
        return folder

    def promotion(self, month: Path) -> list[str]:
        """The words of the command that decides on the month's candidate."""
        words = json.loads((month / "words.json").read_text())
        return ["promote", *words, "--out", str(month / "promote"), "--params", str(self.written())]

    def decide(self, month: Path) -> dict[str, Any]:
        self.run(*self.promotion(month))
        decision: dict[str, Any] = json.loads((month / "promote/decision.json").read_text())
        return decision

    def spawn(self, month: Path, program: tuple[str, ...] = ("-m", "dbrnet")) -> subprocess.Popen[bytes]:
        environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        words = [sys.executable, *program, *self.promotion(month)]
        return subprocess.Popen(words, cwd=self.folder, env=environment | {"PYTHONPATH": str(ROOT)})

    def registry(self, action: str, *words: object) -> None:
        self.run("registry", action, *words, "--model-name", NAME)

    @property
    def ledger(self) -> Ledger:
        return Ledger(open_store(self.folder), NAME)

    @property
    def aliases(self) -> dict[str, int]:
        aliases = open_store(self.folder).client.get_registered_model(NAME).aliases
        return {alias: int(version) for alias, version in aliases.items()}


def retrained(trained: Path, out: Path, *, noise: float = 0.0, zoom: float | None = None) -> Path:
    """A trained folder again, with noise on its weights (in their deviations) or at another zoom."""
    shutil.copytree(trained, out)
    network, meta = load_model(out / "model.pt")
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(noise * weights.std(correction=0) * torch.randn_like(weights))
    save_model(out / "model.pt", network, replace(meta, zoom=zoom or meta.zoom))
    return out


def reexported(exported: Path, out: Path, mark: str, *, same_network: bool = False, broken: bool = False) -> Path:
    """An export that computes the same, as another network by its digest, or as the same one in another file.

    Broken: images are not normalised.
    """
    shutil.copytree(exported, out)
    model = onnx.load_model(out / "model.onnx")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, metadata | {"retraining": mark})
    if not same_network:
        model.graph.name = mark
    for tensor in model.graph.initializer:
        if broken and tensor.name == "average":
            tensor.CopyFrom(numpy_helper.from_array(0 * numpy_helper.to_array(tensor), tensor.name))
    onnx.save_model(model, out / "model.onnx")
    facts = json.loads((out / "export.json").read_text())
    write_json(out / "export.json", facts | {"model_sha256": sha256_file(out / "model.onnx")})
    return out


def leaking(split: Path, out: Path) -> Mapping[str, Any]:
    """The lineage with another split, as the train step that had it would have written it."""
    facts = json.loads((out / "train.json").read_text())
    found = json.loads((split / "split.json").read_text())
    facts["split"] |= {key: found[key] for key in ("kind", "seed", "leaks", "leak_rate", "leak_note")}
    facts["split"]["sha256"] = sha256_file(split / "split.csv")
    write_json(out / "train.json", facts)
    lineage: Mapping[str, Any] = facts
    return lineage


def outcome(decision: Mapping[str, Any]) -> tuple[str, int, int | None]:
    """The answer, the version, and who is champion after it."""
    promotion = decision["promotion"]
    return promotion["answer"], promotion["version"], promotion["champion_after"]


def test_a_year(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    line = Line(tmp_path)

    # January: the first model.
    first_data = line.data("january-data", 220)
    first = line.step("train", *first_data, out=tmp_path / "january/train")
    assert outcome(line.decide(line.measure(first_data, first, "january"))) == ("promoted", 1, 1)

    # February: a bad one.
    bad = retrained(first, tmp_path / "february/train", noise=0.8)
    decision = line.decide(line.measure(first_data, bad, "february"))
    assert outcome(decision) == ("rejected", 2, 1)
    assert any("mIoU" in reason for reason in decision["promotion"]["reasons"])

    # March: more data, enough to train again; the champion is scored anew on the grown test split.
    champion_then = line.step("fetch-champion", out=tmp_path / "march/previous")
    data = line.data("march-data", 260, previous=champion_then)
    line.set("drift", min_new_images=40)
    drift = line.step("drift", data[0], champion_then, out=tmp_path / "march/drift")
    found = json.loads((drift / "drift.json").read_text())
    assert (found["answer"], found["images"]["known"], found["images"]["new"]) == ("yes", 220, 40)
    second = line.step("train", *data, out=tmp_path / "march/train")
    march = line.measure(data, second, "march")
    compared = json.loads((march / "evaluate/metrics.json").read_text())
    assert compared["champion"]["version"] == 1
    assert compared["champion"]["compared"]["seen"] == 0
    assert compared["images"] > json.loads((tmp_path / "january/evaluate/metrics.json").read_text())["images"]
    assert outcome(line.decide(march)) == ("promoted", 3, 3)

    # April: the very same model: no new version, and it is compared as before, with the one it replaced.
    april = line.measure(data, second, "april", exported=march / "export")
    assert json.loads((april / "champion/champion.json").read_text())["version"] == 1
    assert outcome(line.decide(april)) == ("promoted", 3, 3)

    # May: as accurate, and too slow.
    slow = retrained(second, tmp_path / "may/train", zoom=2.0)
    decision = line.decide(line.measure(data, slow, "may"))
    assert outcome(decision) == ("rejected", 4, 3)
    assert any("multiple of the champion's" in reason for reason in decision["promotion"]["reasons"])

    # June: scored on a split that leaks.
    line.set("split", kind="random", previous=None)
    leaky = line.step("split", data[0], out=tmp_path / "june/split")
    trained = retrained(second, tmp_path / "june/train")
    assert leaking(leaky, trained)["split"]["leaks"] == "yes"
    june = reexported(march / "export", tmp_path / "june/export", "june")
    decision = line.decide(line.measure((data[0], leaky), trained, "june", exported=june))
    assert outcome(decision) == ("rejected", 5, 3)
    assert any("near-copy in train" in reason for reason in decision["promotion"]["reasons"])

    # July: the export is broken.
    july = reexported(march / "export", tmp_path / "july/export", "july", broken=True)
    decision = line.decide(line.measure(data, second, "july", exported=july))
    assert outcome(decision) == ("rejected", 6, 3)
    assert any("logit difference" in reason for reason in decision["promotion"]["reasons"])

    # August: a person is to decide, and approves.
    line.set("promote", mode="review")
    again = reexported(march / "export", tmp_path / "august/export", "august")
    august = line.measure(data, second, "august", again)
    assert outcome(line.decide(august)) == ("needs review", 7, 3)
    assert line.aliases == {"champion": 3, "challenger": 7}
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    line.registry("approve", 7)
    assert line.aliases == {"champion": 7}
    line.set("promote", mode="automatic")

    # September: on the line it disappoints. Ben rolls it back, and the schedule, which trains the same
    # network at another commit, cannot bring it in again.
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ben")
    line.registry("rollback", "--why", "scratches missed on coil 4711")
    assert line.aliases == {"champion": 3}
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    again = reexported(again, tmp_path / "september/export", "september", same_network=True)
    september = line.measure(data, second, "september", again)
    decision = line.decide(september)
    assert decision["answer"] == "promoted", decision["reasons"]
    assert outcome(decision) == ("rejected", 8, 3)
    assert "has the network of version 7, which was revoked by ben" in decision["promotion"]["reasons"][0]

    # October: two at once, both compared with version 3.
    autumn = [
        line.measure(data, second, month, reexported(march / "export", tmp_path / month / "export", month))
        for month in ("october", "october-again")
    ]
    processes = [line.spawn(month) for month in autumn]
    assert [process.wait(120) for process in processes] == [0, 0]
    answers = [json.loads((month / "promote/decision.json").read_text()) for month in autumn]
    assert sorted(outcome(one)[0] for one in answers) == ["promoted", "rejected"]
    loser = next(one for one in answers if outcome(one)[0] == "rejected")
    assert "had become champion" in loser["promotion"]["reasons"][0]
    champion = line.aliases["champion"]
    assert champion in (9, 10)

    # November: killed while it decides, and run again.
    november = line.measure(
        data, second, "november", reexported(march / "export", tmp_path / "november/export", "november")
    )
    entries = len(line.ledger.entries())
    assert line.spawn(november, ("-c", KILLED_AFTER_THE_ENTRY)).wait(120) == -signal.SIGKILL
    assert len(line.ledger.entries()) == entries + 1
    assert line.aliases["champion"] == champion
    assert not (november / "promote").exists()
    assert outcome(line.decide(november)) == ("promoted", 11, 11)
    assert len(line.ledger.entries()) == entries + 1

    # December: too close to call, whatever the machine, and a person says no.
    noisy = retrained(second, tmp_path / "december/train", noise=0.02)
    december = line.measure(data, noisy, "december")
    ratio = json.loads((december / "benchmark/benchmark.json").read_text())["champion"]["compared"]["times_as_fast"]
    line.set("promote", min_speed_ratio=(ratio["low"] + ratio["high"]) / 2)
    decision = line.decide(december)
    assert outcome(decision) == ("needs review", 12, 11)
    assert line.aliases == {"champion": 11, "challenger": 12}
    line.registry("reject", 12, "--why", "not worth a change before Christmas")
    assert line.aliases == {"champion": 11}

    state = line.ledger.state()
    assert (state.champion, state.challenger, set(state.revoked)) == (11, None, {7, 12})
    champions = [event.champion_after for event in state.events]
    assert champions == [1, 1, 3, 3, 3, 3, 3, 3, 7, 3, 3, champion, champion, 11, 11, 11]
    assert line.ledger.state(at=state.events[8].entry.time).champion == 7
    assert line.ledger.state(at=datetime(2000, 1, 1, tzinfo=UTC)).champion is None

    capsys.readouterr()
    line.registry("history", "--html", tmp_path / "history.html")
    shown = capsys.readouterr().out
    for words in ("ben", "coil 4711", "had become champion", "not worth a change"):
        assert words in shown
        assert words in (tmp_path / "history.html").read_text()
