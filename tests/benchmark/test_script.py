"""benchmarks/runtimes.py, as its users run it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmark.conftest import Job

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_script_measures_against_the_released_network(job: Job, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "benchmarks/runtimes.py", "--trained", job.trained),
        *("--exported", job.exported, "--evaluated", job.evaluated, "--sizes", "64x96", "80x48", "--seconds", "0.1"),
        *("--runtimes", "onnxruntime-cpu", "openvino-int8", "--threads", "1"),
        *("--also", f"same={job.exported / 'model.onnx'}@onnxruntime-cpu", "--out", tmp_path / "speed"),
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
