"""The whole step on real runtimes, and what it writes."""

import csv
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

from dbrnet.benchmark import roofline
from dbrnet.benchmark.measurement import open_baselines, table
from dbrnet.config import BenchmarkParams
from dbrnet.errors import UserError
from dbrnet.files import MARKER, sha256_file
from dbrnet.records import BenchmarkRecord, ComparedSpeed, ExportRecord, RooflineFacts
from dbrnet.steps.benchmark import benchmark
from tests.reports.examples import change, evaluation
from tests.steps.conftest import SPLITS, Folders, write_champion

ROOT = Path(__file__).parents[2]
PLAIN = ["pytorch-eager", "onnxruntime-cpu"]
QUICK = BenchmarkParams(size=(64, 96), seconds=0.05, threads=1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short measurements; runtimes set PyTorch's threads for the whole process."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(roofline, "SECONDS", 0.02)
    monkeypatch.setattr(roofline, "COPIED", {"cpu": 1 << 20})
    yield
    torch.set_num_threads(threads)


def run(folders: Folders, out: Path, against: str | None = None) -> BenchmarkRecord:
    benchmark(QUICK, *vars(folders).values(), against=against, out=out)
    return BenchmarkRecord.load(out)


def assert_ordered(compared: ComparedSpeed) -> None:
    ratio = compared.times_as_fast
    assert ratio.low is not None
    assert ratio.value is not None
    assert ratio.high is not None
    assert ratio.low <= ratio.value <= ratio.high
    assert compared.pairs == 10


def test_the_step_writes_all_figures_and_their_sources(
    folders: Folders, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dbrnet"):
        record = run(folders, tmp_path / "out", against=str(folders.exported / "model.onnx"))
    written = {file.name for file in (tmp_path / "out").iterdir()}
    assert written == {MARKER, "benchmark.json", "durations.csv", "latency.png", "speed-accuracy.png"}
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
def test_without_accuracy_no_accuracy_plot_is_drawn(folders: Folders, tmp_path: Path) -> None:
    change(evaluation(), runtimes={}).save(tmp_path / "evaluated")
    record = run(replace(folders, evaluated=tmp_path / "evaluated"), tmp_path / "out")
    assert (record.against, record.champion) == (None, None)
    assert not (tmp_path / "out/speed-accuracy.png").exists()


def test_the_champion_takes_its_turn_beside_the_candidate(folders: Folders, tmp_path: Path) -> None:
    model = folders.exported / "model.onnx"
    champion = run(replace(folders, champion=write_champion(tmp_path / "champion", model)), tmp_path / "out").champion
    assert champion is not None
    assert (champion.version, champion.sha256, champion.runtime) == (3, sha256_file(model), "onnxruntime-cpu")
    assert champion.compared is not None
    assert_ordered(champion.compared)
    with (tmp_path / "out/durations.csv").open(newline="") as file:
        names = {row["runtime"] for row in csv.DictReader(file)}
    assert names == {*PLAIN, "onnxruntime-cpu (champion)"}


def test_images_are_of_the_test_split_and_resized(folders: Folders) -> None:
    from dbrnet.data.dataset import Dataset
    from dbrnet.data.split import Split
    from dbrnet.steps.benchmark import _images

    files = _images(Dataset.load(folders.dataset), Split.load(folders.split), (64, 96))
    own = [next((folders.dataset / "images").glob(f"{name}.*")).read_bytes() for name in SPLITS["test"]]
    kept = [data for data in files if data in own]
    assert (len(files), len(kept)) == (5, 3)
    assert any(data.startswith(b"\xff\xd8") for data in kept), "a JPEG of that size is not encoded again"
    for data in files:
        decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert decoded is not None
        assert decoded.shape == (64, 96, 3)
    assert {data[:4] for data in set(files) - set(own)} == {b"\x89PNG", b"\xff\xd8\xff\xe0"}


def test_a_missing_baseline_is_one_clear_line(folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.onnx: cannot be read"):
        run(folders, tmp_path / "out", against=str(tmp_path / "nowhere.onnx"))
    assert not (tmp_path / "out").exists()


def test_the_deployed_runtime_must_be_available(folders: Folders, tmp_path: Path) -> None:
    exported = shutil.copytree(folders.exported, tmp_path / "exported")
    change(ExportRecord.load(exported), runtimes=("openvino-int8", "onnxruntime-cpu")).save(exported)
    with pytest.raises(UserError, match=r"openvino-int8 is not available.*first of export\.runtimes"):
        run(replace(folders, exported=exported), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_baseline_is_opened_in_the_runtimes_that_take_its_file(folders: Folders, tmp_path: Path) -> None:
    onnx_file = folders.exported / "model.onnx"
    assert list(open_baselines(onnx_file, PLAIN, 1)) == ["onnxruntime-cpu"]
    assert list(open_baselines(folders.trained / "model.pt", PLAIN, 1)) == ["pytorch-eager"]
    with pytest.raises(UserError, match=r"none of the runtimes measured here takes it \(pytorch-eager\)"):
        open_baselines(onnx_file, ["pytorch-eager"], 1)
    quantized = onnx.load(onnx_file)
    entry = quantized.metadata_props.add()
    entry.key, entry.value = "precision", "int8"
    onnx.save(quantized, tmp_path / "model-int8.onnx")
    with pytest.raises(UserError, match="none of the runtimes"):
        open_baselines(tmp_path / "model-int8.onnx", PLAIN, 1)


def test_table_columns_are_aligned_markdown() -> None:
    rows = [{"runtime": "a", "p50 ms": "10.0"}, {"runtime": "longer", "p50 ms": "7.5"}]
    assert table(rows).splitlines() == [
        "| runtime | p50 ms |",
        "| ------- | -----: |",
        "| a       |   10.0 |",
        "| longer  |    7.5 |",
    ]


@pytest.mark.slow
def test_the_script_measures_against_the_released_network(folders: Folders, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "benchmarks/runtimes.py", "--trained", folders.trained),
        *(
            "--exported",
            folders.exported,
            "--evaluated",
            folders.evaluated,
            "--sizes",
            "64x96",
            "80x48",
            "--seconds",
            "0.1",
        ),
        *("--runtimes", "onnxruntime-cpu", "openvino-int8", "--threads", "1"),
        *("--also", f"same={folders.exported / 'model.onnx'}@onnxruntime-cpu", "--out", tmp_path / "speed"),
    ]
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    for words in ("torch 2", "64x96, batch 1", "80x48, batch 1", "left out: openvino-int8"):
        assert words in done.stdout, done.stdout
    assert re.search(r"\| released, eager +\| +1\.00 \(1\.00 to 1\.00\) \|", done.stdout), done.stdout
    figures = json.loads((tmp_path / "speed/runtimes.json").read_text())
    assert [one["size"] for one in figures["sizes"]] == [[64, 96], [80, 48]]
    runtimes = figures["sizes"][0]["runtimes"]
    released = [f"released, {kind}" for kind in ("eager", "memory kept", "forward", "autograd")]
    assert list(runtimes) == [*released, "onnxruntime-cpu", "same"]
    drawn = {path.name for path in (tmp_path / "speed").glob("*.png")}
    assert drawn == {f"{kind}-{size}.png" for kind in ("latency", "speed-accuracy") for size in ("64x96", "80x48")}
    for one in runtimes.values():
        ratio = one["times_as_fast"]
        assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
    theirs, ours = (runtimes[name]["roofline"]["arithmetic_ms"] for name in ("released, eager", "onnxruntime-cpu"))
    assert theirs != ours, "the baseline does the work of another network"
    assert isinstance(runtimes["same"]["roofline"], str)
