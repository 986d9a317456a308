from pathlib import Path

import onnx
import pytest

from dbrnet.benchmark.measurement import open_baselines, table
from dbrnet.errors import UserError
from tests.benchmark.conftest import Job

PLAIN = ["pytorch-eager", "onnxruntime-cpu"]


def test_a_baseline_is_opened_in_the_runtimes_that_take_its_file(job: Job, tmp_path: Path) -> None:
    onnx_file = job.exported / "model.onnx"
    assert list(open_baselines(onnx_file, PLAIN, 1)) == ["onnxruntime-cpu"]
    assert list(open_baselines(job.trained / "model.pt", PLAIN, 1)) == ["pytorch-eager"]
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
