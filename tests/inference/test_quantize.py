"""What concerns quantizing alone; that the file runs is tests/inference/test_runtimes.py's."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from dbrnet.data.dataset import Image
from dbrnet.inference.exported_file import read_exported
from dbrnet.inference.quantize import Quantized, quantize
from dbrnet.inference.runtimes.base import Model
from dbrnet.inference.runtimes.registry import open_model
from tests.conftest import Exported

SCRIPT = """
import dbrnet
from nncf.telemetry.wrapper import telemetry
print(type(telemetry).__name__)
"""


def test_nncf_does_not_phone_home() -> None:
    """Outside pytest, which it knows and is silent in anyway."""
    environment = {key: value for key, value in os.environ.items() if key not in {"NNCF_CI", "NNCF_DEV"}}
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split()[-1] != "NNCFTelemetry"  # but a stub that does nothing


@pytest.fixture
def within(exported: Exported, make_image: Callable[..., Image], tmp_path: Path) -> Callable[[float], Quantized]:
    """Quantizes by a budget of likeness to float32, by confidences: every convolution has a share in that."""
    reference = open_model(exported[0])
    images = {str(seed): make_image(64, 96, seed) for seed in range(2)}
    expected = {id_: reference.predict(image[None])[1] for id_, image in images.items()}

    def score(candidate: Model, ids: Sequence[str]) -> tuple[float, list[float]]:
        found = {id_: candidate.predict(images[id_][None])[1] for id_ in ids}
        alike = [1 - float(np.abs(found[id_] - expected[id_]).mean()) for id_ in ids]
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
    found = within(all_of_them / 2)
    assert 0 < len(found.kept) < found.convolutions
    assert found.loss <= all_of_them / 2 < found.loss_of_all
    assert read_exported(tmp_path / "int8.onnx").metadata["val_miou"] == f"{found.miou - found.loss:.4f}"
