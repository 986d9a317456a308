"""The whole step on real runtimes, and what it writes."""

import csv
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbrnet.benchmark import roofline
from dbrnet.config import BenchmarkParams
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import Split
from dbrnet.errors import UserError
from dbrnet.files import MARKER, write_json
from dbrnet.steps.benchmark import benchmark
from tests.benchmark.conftest import Job

QUICK = BenchmarkParams(size=(64, 96), seconds=0.05, threads=1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SECONDS", 0.02)
    monkeypatch.setattr(roofline, "COPIED", {"cpu": 1 << 20})


def run(job: Job, out: Path, params: BenchmarkParams = QUICK, against: str | None = None) -> None:
    benchmark(
        params, job.dataset, job.split, job.trained, job.exported, job.champion, job.evaluated, against=against, out=out
    )


def test_the_step_writes_all_figures_and_their_sources(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dbrnet"):
        run(job, tmp_path / "out", against=str(job.exported / "model.onnx"))
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {MARKER, "benchmark.json", "durations.csv", "latency.png", "speed-accuracy.png"}
    figures = json.loads((tmp_path / "out/benchmark.json").read_text())
    assert list(figures["runtimes"]) == ["pytorch-eager", "onnxruntime-cpu"]
    assert "built for the CPU only" in figures["not_available"]["onnxruntime-cuda"]
    for one in figures["runtimes"].values():
        assert one["min_ms"] <= one["p50_ms"] <= one["p90_ms"] <= one["p99_ms"] <= one["max_ms"]
        assert one["fps"] == pytest.approx(1000 / one["mean_ms"])
        assert one["end_to_end"]["min_ms"] > one["min_ms"]
        assert one["end_to_end"]["runs"] == one["runs"] >= 10
        assert (one["precision"], one["device"], one["threads"], one["batch"]) == ("fp32", "cpu", 1, 1)
        assert one["offline"]["images_per_second"] == max(one["offline"]["tried"].values())
        assert 0 < one["roofline"]["share"] == pytest.approx(one["roofline"]["ms"] / one["p50_ms"])
    assert figures["size"] == [64, 96]
    assert figures["complexity"]["conv_macs"] == figures["work"]["macs"] > 0
    assert {"governor", "load_average", "cpu_quota"} <= set(figures["machine"]["start"])
    assert figures["machine"]["start"].keys() == figures["machine"]["end"].keys()
    assert {"hardware", "versions"} <= set(figures["provenance"])
    with (tmp_path / "out/durations.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["runtime"] == "onnxruntime-cpu"]
    own = figures["runtimes"]["onnxruntime-cpu"]
    kept = [float(row["predict_ms"]) for row in rows]
    assert len(kept) == own["runs"]
    assert np.percentile(kept, 99) == pytest.approx(own["p99_ms"], rel=1e-3)
    assert (np.percentile(kept, 50), {row["block"] for row in rows}) == (
        pytest.approx(own["p50_ms"], rel=1e-3),
        {str(block) for block in range(10)},
    )
    assert figures["against"]["sha256"] == figures["model_sha256"]
    ratio = figures["against"]["runtimes"]["onnxruntime-cpu"]["times_as_fast"]
    assert ratio["low"] <= ratio["median"] <= ratio["high"]
    assert ratio["pairs"] == 10
    for words in ("| onnxruntime-cpu ", "roofline / p50", "times as fast as", "left out: onnxruntime-cuda"):
        assert words in caplog.text
    for name in ("latency.png", "speed-accuracy.png"):
        assert cv2.imread(str(tmp_path / "out" / name)).shape[1] > 500  # type: ignore[union-attr]


@pytest.mark.slow
def test_without_accuracy_no_accuracy_plot_is_drawn(job: Job, tmp_path: Path) -> None:
    write_json(tmp_path / "evaluated/metrics.json", {"runtimes": {}})
    run(replace(job, evaluated=tmp_path / "evaluated"), tmp_path / "out")
    figures = json.loads((tmp_path / "out/benchmark.json").read_text())
    assert figures["against"] is None
    assert figures["champion"] is None
    assert not (tmp_path / "out/speed-accuracy.png").exists()


def test_the_champion_takes_its_turn_beside_the_candidate(job: Job, tmp_path: Path) -> None:
    holder = tmp_path / "champion"
    holder.mkdir()
    (holder / "model.onnx").write_bytes((job.exported / "model.onnx").read_bytes())
    write_json(holder / "champion.json", {"version": 7, "sha256": "c" * 64})
    run(replace(job, champion=holder), tmp_path / "out")
    found = json.loads((tmp_path / "out/benchmark.json").read_text())["champion"]
    assert (found["version"], found["sha256"], found["runtime"]) == (7, "c" * 64, "onnxruntime-cpu")
    assert found["times_as_fast"]["low"] <= found["times_as_fast"]["median"] <= found["times_as_fast"]["high"]
    assert found["times_as_fast"]["pairs"] == 10
    with (tmp_path / "out/durations.csv").open(newline="") as file:
        names = {row["runtime"] for row in csv.DictReader(file)}
    assert names == {"pytorch-eager", "onnxruntime-cpu", "onnxruntime-cpu (champion)"}


def test_images_are_of_the_test_split_and_resized(job: Job) -> None:
    from dbrnet.steps.benchmark import IMAGES, _images

    files = _images(Dataset.load(job.dataset), Split.load(job.split), (64, 96))
    assert 8 <= len(files) <= IMAGES
    test = {line.split(",")[0] for line in (job.split / "split.csv").read_text().split() if ",test," in line}
    own = [(job.dataset / "images").glob(f"{name}.*").__next__().read_bytes() for name in test]
    kept = [data for data in files if data in own]
    assert 0 < len(kept) < len(files)
    assert any(data.startswith(b"\xff\xd8") for data in kept), "a JPEG of that size is not encoded again"
    for data in files:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        assert decoded.shape == (64, 96, 3)
    assert {data[:4] for data in files} == {b"\x89PNG", b"\xff\xd8\xff\xe0"}


def test_a_missing_baseline_is_one_clear_line(job: Job, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.onnx: cannot be read"):
        run(job, tmp_path / "out", against=str(tmp_path / "nowhere.onnx"))
    assert not (tmp_path / "out").exists()


def test_the_deployed_runtime_must_be_available(job: Job, tmp_path: Path) -> None:
    exported, holder = tmp_path / "exported", tmp_path / "champion"
    shutil.copytree(job.exported, exported)
    holder.mkdir()
    shutil.copy(job.exported / "model.onnx", holder / "model.onnx")
    write_json(holder / "champion.json", {"version": 7, "sha256": "c" * 64})
    facts = json.loads((exported / "export.json").read_text())
    write_json(exported / "export.json", facts | {"runtimes": ["openvino-int8", "onnxruntime-cpu"]})
    with pytest.raises(UserError, match=r"openvino-int8 is not available.*first of export\.runtimes"):
        run(replace(job, exported=exported, champion=holder), tmp_path / "out")
    assert not (tmp_path / "out").exists()
