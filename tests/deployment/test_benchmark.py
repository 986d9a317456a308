import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dbrnet.data.dataset import Image
from dbrnet.deployment.benchmark import Latency, measure
from dbrnet.deployment.runtimes.base import Images
from dbrnet.deployment.runtimes.catalogue import open_model
from dbrnet.deployment.runtimes.torch_model import TorchModel
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta


def test_a_summary_of_known_durations() -> None:
    latency = Latency.from_seconds([0.010] * 98 + [0.020, 0.520])
    assert latency.runs == 100
    assert latency.p50_ms == pytest.approx(10)
    assert latency.p90_ms == pytest.approx(10)
    assert 20 < latency.p99_ms < 520
    assert latency.mean_ms == pytest.approx(15.2)
    assert latency.to_dict()["fps"] == pytest.approx(1000 / 15.2)


def test_runtimes_take_turns_for_the_time_asked() -> None:
    calls: list[str] = []

    def runtime(name: str, seconds: float) -> Callable[[Images], None]:
        def run(image: Images) -> None:
            assert image.shape == (1, 40, 40, 3)
            calls.append(name)
            time.sleep(seconds)

        return run

    image = np.zeros((1, 40, 40, 3), np.uint8)
    latencies = measure({"fast": runtime("fast", 0.002), "slow": runtime("slow", 0.02)}, image, seconds=0.2)
    assert set(latencies) == {"fast", "slow"}
    for name, latency in latencies.items():
        assert latency.runs * latency.mean_ms >= 200
        assert latency.runs < calls.count(name)  # warm-up and the first run of each block are left out
    assert latencies["fast"].p50_ms < latencies["slow"].p50_ms


def test_both_real_runtimes(exported: tuple[Path, DBRNet, ModelMeta], picture: Callable[..., Image]) -> None:
    path, model, meta = exported
    runtimes = {
        "onnx": open_model(path, threads=1).predict,
        "torch": TorchModel(model, meta, threads=1).predict,
    }
    for latency in measure(runtimes, picture(64, 96)[None], seconds=0.1).values():
        assert 0 < latency.p50_ms <= latency.p90_ms <= latency.p99_ms
