from pathlib import Path

import onnx
import pytest

from dbrnet.errors import UserError
from dbrnet.speed.rivals import open_rivals
from tests.speed.conftest import Job

PLAIN = ["pytorch-eager", "onnxruntime-cpu"]


def test_a_rival_runs_where_its_file_can(job: Job, tmp_path: Path) -> None:
    onnx_file = job.exported / "model.onnx"
    assert list(open_rivals(onnx_file, PLAIN, 1)) == ["onnxruntime-cpu"]
    assert list(open_rivals(job.trained / "model.pt", PLAIN, 1)) == ["pytorch-eager"]
    with pytest.raises(UserError, match=r"none of the runtimes measured here takes it \(pytorch-eager\)"):
        open_rivals(onnx_file, ["pytorch-eager"], 1)
    quantised = onnx.load(onnx_file)
    entry = quantised.metadata_props.add()
    entry.key, entry.value = "precision", "int8"
    onnx.save(quantised, tmp_path / "model-int8.onnx")
    with pytest.raises(UserError, match="none of the runtimes"):
        open_rivals(tmp_path / "model-int8.onnx", PLAIN, 1)
