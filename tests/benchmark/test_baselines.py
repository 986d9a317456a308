from pathlib import Path

import onnx
import pytest

from dbrnet.benchmark.baselines import open_baselines
from dbrnet.errors import UserError
from tests.benchmark.conftest import Job

PLAIN = ["pytorch-eager", "onnxruntime-cpu"]


def test_a_baseline_runs_where_its_file_can(job: Job, tmp_path: Path) -> None:
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
