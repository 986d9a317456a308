"""The whole step on real runtimes, and what it writes."""

import csv
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
from dbrnet.files import MARKER
from dbrnet.records import BenchmarkRecord, ComparedSpeed, ExportRecord, RooflineFacts
from dbrnet.steps.benchmark import benchmark
from tests.benchmark.conftest import Job
from tests.reports import examples

QUICK = BenchmarkParams(size=(64, 96), seconds=0.05, threads=1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "SECONDS", 0.02)
    monkeypatch.setattr(roofline, "COPIED", {"cpu": 1 << 20})


def run(job: Job, out: Path, params: BenchmarkParams = QUICK, against: str | None = None) -> None:
    benchmark(
        params, job.dataset, job.split, job.trained, job.exported, job.champion, job.evaluated, against=against, out=out
    )


def champion_of(job: Job, folder: Path) -> Path:
    """The folder of a champion, version 7, that is the candidate's network."""
    champion = folder / "champion"
    champion.mkdir()
    shutil.copy(job.exported / "model.onnx", champion / "model.onnx")
    examples.change(examples.champion_record(), version=7, sha256="c" * 64).save(champion)
    return champion


def assert_ordered(compared: ComparedSpeed) -> None:
    ratio = compared.times_as_fast
    assert ratio.low is not None
    assert ratio.value is not None
    assert ratio.high is not None
    assert ratio.low <= ratio.value <= ratio.high
    assert compared.pairs == 10


def test_the_step_writes_all_figures_and_their_sources(
    job: Job, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dbrnet"):
        run(job, tmp_path / "out", against=str(job.exported / "model.onnx"))
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {MARKER, "benchmark.json", "durations.csv", "latency.png", "speed-accuracy.png"}
    record = BenchmarkRecord.load(tmp_path / "out")
    assert list(record.runtimes) == ["pytorch-eager", "onnxruntime-cpu"]
    assert "built for the CPU only" in record.not_available["onnxruntime-cuda"]
    for speed in record.runtimes.values():
        assert speed.min_ms <= speed.p50_ms <= speed.p90_ms <= speed.p99_ms <= speed.max_ms
        assert speed.fps == pytest.approx(1000 / speed.mean_ms)
        assert speed.end_to_end.min_ms > speed.min_ms
        assert speed.end_to_end.runs == speed.runs >= 10
        assert (speed.precision, speed.device, speed.threads, speed.batch) == ("fp32", "cpu", 1, 1)
        assert speed.offline is not None
        assert speed.offline.images_per_second == max(speed.offline.tried.values())
        assert isinstance(speed.roofline, RooflineFacts)
        assert 0 < speed.roofline.share == pytest.approx(speed.roofline.ms / speed.p50_ms)
    assert record.size == (64, 96)
    assert record.complexity.conv_macs == record.work.macs > 0
    with (tmp_path / "out/durations.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["runtime"] == "onnxruntime-cpu"]
    own = record.runtimes["onnxruntime-cpu"]
    kept = [float(row["predict_ms"]) for row in rows]
    assert len(kept) == own.runs
    assert np.percentile(kept, 99) == pytest.approx(own.p99_ms, rel=1e-3)
    assert (np.percentile(kept, 50), {row["block"] for row in rows}) == (
        pytest.approx(own.p50_ms, rel=1e-3),
        {str(block) for block in range(10)},
    )
    assert record.against is not None
    assert record.against.sha256 == record.model_sha256
    assert_ordered(record.against.runtimes["onnxruntime-cpu"])
    for words in ("| onnxruntime-cpu ", "roofline / p50", "times as fast as", "left out: onnxruntime-cuda"):
        assert words in caplog.text
    for name in ("latency.png", "speed-accuracy.png"):
        assert cv2.imread(str(tmp_path / "out" / name)).shape[1] > 500  # type: ignore[union-attr]


@pytest.mark.slow
def test_without_accuracy_no_accuracy_plot_is_drawn(job: Job, tmp_path: Path) -> None:
    examples.change(examples.evaluation(), runtimes={}).save(tmp_path / "evaluated")
    run(replace(job, evaluated=tmp_path / "evaluated"), tmp_path / "out")
    record = BenchmarkRecord.load(tmp_path / "out")
    assert (record.against, record.champion) == (None, None)
    assert not (tmp_path / "out/speed-accuracy.png").exists()


def test_the_champion_takes_its_turn_beside_the_candidate(job: Job, tmp_path: Path) -> None:
    run(replace(job, champion=champion_of(job, tmp_path)), tmp_path / "out")
    champion = BenchmarkRecord.load(tmp_path / "out").champion
    assert champion is not None
    assert (champion.version, champion.sha256, champion.runtime) == (7, "c" * 64, "onnxruntime-cpu")
    assert champion.compared is not None
    assert_ordered(champion.compared)
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
    exported = shutil.copytree(job.exported, tmp_path / "exported")
    export = ExportRecord.load(exported)
    examples.change(export, runtimes=("openvino-int8", "onnxruntime-cpu")).save(exported)
    with pytest.raises(UserError, match=r"openvino-int8 is not available.*first of export\.runtimes"):
        run(replace(job, exported=exported, champion=champion_of(job, tmp_path)), tmp_path / "out")
    assert not (tmp_path / "out").exists()
