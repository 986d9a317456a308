"""Quantisation alone; test_runtimes.py tests that the file runs."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from dbrnet.data.dataset import Image
from dbrnet.inference.quantize import Quantized, quantize
from dbrnet.inference.runtimes import open_model
from dbrnet.inference.runtimes.base import Model
from dbrnet.inference.runtimes.exported import read_exported
from tests.conftest import Exported

SCRIPT = """
import dbrnet
from nncf.telemetry.wrapper import telemetry
print(type(telemetry).__name__)
"""


def test_nncf_telemetry_is_disabled() -> None:
    """In a process without pytest, under which NNCF disables it anyway."""
    environment = {key: value for key, value in os.environ.items() if key not in {"NNCF_CI", "NNCF_DEV"}}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[-1] != "NNCFTelemetry"  # but a stub that does nothing


@pytest.fixture
def within(exported: Exported, make_image: Callable[..., Image], tmp_path: Path) -> Callable[[float], Quantized]:
    """Quantizes within a budget of difference to float32 in confidence, in which every convolution has a share."""
    reference = open_model(exported[0])
    images = {str(seed): make_image(64, 96, seed) for seed in range(2)}
    expected = {id_: reference.predict(image[None])[1] for id_, image in images.items()}

    def score(candidate: Model, ids: Sequence[str]) -> tuple[float, list[float]]:
        confidences = {id_: candidate.predict(images[id_][None])[1] for id_ in ids}
        alike = [1 - float(np.abs(confidences[id_] - expected[id_]).mean()) for id_ in ids]
        return sum(alike) / len(alike), alike

    return lambda budget: quantize(
        exported[0],
        tmp_path / "int8.onnx",
        calibration=list(images.values()),
        validation=list(images),
        score=score,
        max_loss=budget,
    )


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_tight_budget_keeps_some_convolutions_in_higher_precision(
    within: Callable[[float], Quantized], tmp_path: Path
) -> None:
    all_of_them = within(0.9).loss_of_all
    outcome = within(all_of_them / 2)
    assert 0 < len(outcome.kept) < outcome.convolutions
    assert outcome.loss <= all_of_them / 2 < outcome.loss_of_all
    assert read_exported(tmp_path / "int8.onnx").metadata["val_miou"] == f"{outcome.miou - outcome.loss:.4f}"
