from pathlib import Path
from typing import get_args

import onnx
import pytest

from dbrnet.deployment.runtimes.catalogue import RUNTIMES, why_not_available
from dbrnet.errors import UserError
from dbrnet.params import RuntimeName
from dbrnet.speed.entrants import open_entrants, open_rivals
from tests.speed.conftest import Job

PLAIN = ["pytorch-eager", "onnxruntime-cpu"]


def test_params_know_every_runtime() -> None:
    assert get_args(RuntimeName) == RUNTIMES


def test_each_runtime_opens_its_file_and_what_is_missing_has_its_reason(job: Job) -> None:
    models, missing = open_entrants(RUNTIMES, job.trained / "model.pt", job.exported, 1)
    assert {*models, *missing} == set(RUNTIMES)
    assert all(model.runtime == name and model.threads == 1 for name, model in models.items())
    assert set(PLAIN) <= set(models)
    for name in missing:
        if name != "openvino-int8":
            assert missing[name] == why_not_available(name)
    if not why_not_available("openvino-int8"):
        assert "model-int8.onnx does not exist" in missing["openvino-int8"]


def test_no_runtime_at_all_is_an_error(job: Job, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runtime to measure: openvino-int8 is not available"):
        open_entrants(["openvino-int8"], job.trained / "model.pt", tmp_path, 1)


def test_a_broken_file_is_an_error_and_not_a_missing_runtime(job: Job, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="not a readable ONNX file"):
        open_entrants(PLAIN, job.trained / "model.pt", tmp_path, 1)


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
