from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from dbrnet.benchmark import roofline as roofline_module
from dbrnet.benchmark.roofline import Peaks, count_work, dense_convolutions, higher, measure_peaks, roofline
from dbrnet.inference.runtimes import why_not_available
from dbrnet.inference.runtimes.base import NotAvailableError
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta
from dbrnet.records import PeakFacts, WorkFacts

Exported = tuple[Path, DBRNet, ModelMeta]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short measurements; those set PyTorch's threads for the whole process."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(roofline_module, "SECONDS", 0.02)
    monkeypatch.setattr(roofline_module, "COPIED", {"cpu": 1 << 20})
    yield
    torch.set_num_threads(threads)


def peak(macs: float, moved: float) -> PeakFacts:
    return PeakFacts(macs=macs, bytes=moved, measured_by="hand")


def test_the_work_of_two_convolutions_equals_a_count_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
    )
    assert count_work(model, 32, 64) == WorkFacts(
        macs=16 * 32 * 8 * (27 + 9), weights=8 * 27 + 8 + 8 * 9, activations=2 * 16 * 32 * 8
    )


def test_a_convolution_used_twice_has_its_weights_once() -> None:
    same = nn.Conv2d(3, 3, 1, bias=False)
    work = count_work(nn.Sequential(same, same), 32, 32)
    assert (work.weights, work.activations) == (9, 2 * 3 * 32 * 32)


def test_the_network_is_left_as_it_was(exported: Exported) -> None:
    _, model, _ = exported
    work = count_work(model, 64, 96)
    assert not any(module._forward_hooks for module in model.modules())
    assert count_work(model, 128, 96).macs == pytest.approx(2 * work.macs, rel=0.02)


def test_the_roofline_is_the_longer_of_arithmetic_and_memory() -> None:
    work = WorkFacts(macs=10**9, weights=10**6, activations=10**7)
    fp32, int8 = (roofline(work, precision, peak(1e11, 1e10), 40) for precision in ("fp32", "int8"))
    assert fp32.arithmetic_ms == pytest.approx(10)
    assert fp32.memory_ms == pytest.approx(4 * 21e6 / 1e10 * 1000)
    assert int8.memory_ms == pytest.approx(fp32.memory_ms / 4)
    assert (fp32.ms, fp32.share) == pytest.approx((10, 0.25))
    assert roofline(work, "fp32", peak(1e11, 1e9), 40).ms == pytest.approx(84)


@pytest.mark.slow
def test_peaks_of_this_machine() -> None:
    peaks = measure_peaks([("cpu", "fp32"), ("cpu", "bf16"), ("cpu", "fp32")], threads=1)
    assert list(peaks) == [("cpu", "fp32"), ("cpu", "bf16")]
    fp32, bf16 = peaks.values()
    assert isinstance(fp32, PeakFacts)
    assert isinstance(bf16, PeakFacts)
    assert fp32.macs > 1e8
    assert fp32.bytes == bf16.bytes > 1e8


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_openvino_computes_at_the_precision_or_says_that_the_cpu_cannot(precision: str) -> None:
    if why_not_available(f"openvino-{precision}"):
        with pytest.raises(NotAvailableError, match=f"openvino-{precision} is not available: the CPU"):
            roofline_module._openvino_macs(precision, threads=1)
        return
    assert roofline_module._openvino_macs(precision, threads=1) > 1e8


def test_a_peak_measured_with_other_kernels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = dense_convolutions(quantized=False)
    monkeypatch.setattr(roofline_module, "dense_convolutions", lambda *, quantized: plain)
    (reason,) = measure_peaks([("cpu", "int8")], threads=1).values()
    assert reason == "the peak in int8 is not measured: asked for int8, OpenVINO computed in f32"


def test_a_peak_that_cannot_be_measured_is_a_reason() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device that the test wants missing")
    (reason,) = measure_peaks([("cuda", "fp32")], threads=1).values()
    assert reason == "the peak in fp32 is not measured: PyTorch finds no CUDA device here"


def test_the_better_of_two_measurements_counts() -> None:
    slow, fast = peak(1e9, 1e9), peak(2e9, 1e9)
    fp32, bf16, int8 = (("cpu", name) for name in ("fp32", "bf16", "int8"))
    first: Peaks = {fp32: slow, bf16: fast, int8: "not measured"}
    second: Peaks = {fp32: fast, bf16: slow, int8: "not measured"}
    assert higher(first, second) == {fp32: fast, bf16: fast, int8: "not measured"}
