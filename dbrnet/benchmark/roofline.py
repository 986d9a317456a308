"""The roofline: the least time that the network could take on this machine, from peaks measured in the same run.

Arithmetic time: the network's multiply-accumulates, over the peak rate of a large dense matrix product (PyTorch) or of
large dense convolutions (OpenVINO), whichever is higher, at the same number of threads. Memory time: the bytes that
must move, over the peak rate of a large copy. The roofline is the longer of the two. A runtime can only be faster by
doing less work or by keeping its activations in the caches.
"""

from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter as clock
from typing import Any

import numpy as np
import onnx.parser
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from dbrnet.inference.runtimes.base import NotAvailableError
from dbrnet.inference.runtimes.exported import latency_settings, require_openvino
from dbrnet.models.cost import measure_cost
from dbrnet.records import PeakFacts, RooflineFacts, WorkFacts

SECONDS = 0.25  # for each peak, measured twice in a run; the best counts
BYTES = {"fp32": 4, "bf16": 2, "int8": 1}  # of one value
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
KERNELS = {"fp32": {"f32"}, "bf16": {"bf16"}, "int8": {"u8", "i8"}}  # OpenVINO's names for what its kernels compute in
SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices, by device
COPIED = {"cpu": 256 << 20, "cuda": 4 << 30}  # bytes, far more than any cache holds
CHANNELS, MAP_SIDE, LAYERS = 256, 64, 3  # of the dense convolutions

Kind = tuple[str, str]  # device and precision


Peaks = dict[Kind, PeakFacts | str]  # or the reason why there is none


def count_work(model: nn.Module, height: int, width: int) -> WorkFacts:
    """Count the work of `model` for one image of height x width; leaves the model as it was."""
    convolutions: dict[int, tuple[int, int]] = {}  # a module's identity -> its weights and its outputs

    def count(module: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        weights, outputs = convolutions.get(id(module), (0, 0))
        own = sum(parameter.numel() for parameter in module.parameters())
        convolutions[id(module)] = (weights or own, outputs + output.numel())

    hooks = [module.register_forward_hook(count) for module in model.modules() if isinstance(module, nn.Conv2d)]
    try:
        macs = measure_cost(model, height, width).conv_macs
    finally:
        for hook in hooks:
            hook.remove()
    weights, activations = (sum(column) for column in zip(*convolutions.values(), strict=True))
    return WorkFacts(macs=macs, weights=weights, activations=activations)


def roofline(work: WorkFacts, precision: str, peak: PeakFacts, p50_ms: float) -> RooflineFacts:
    """The roofline of `work` at a precision under a peak, and its share in the median time of one image."""
    # The weights are read once, and each convolution's output is written once and read once. Batch norms, ReLUs,
    # sums and resizing count nothing, because good runtimes fuse them.
    moved = BYTES[precision] * (work.weights + 2 * work.activations)
    arithmetic, memory = 1000 * (work.macs / peak.macs), 1000 * (moved / peak.bytes)
    least = max(arithmetic, memory)
    return RooflineFacts(arithmetic_ms=arithmetic, memory_ms=memory, peak=peak, ms=least, share=least / p50_ms)


def measure_peaks(kinds: Iterable[Kind], threads: int) -> Peaks:
    """The peak of each device at each precision with `threads` threads; takes a second or two for each.

    Any device other than "cpu" is measured on CUDA. A peak that nothing installed here can measure is a reason instead.
    """
    torch.set_num_threads(threads)
    bandwidths: dict[str, float] = {}
    peaks: Peaks = {}
    for device, precision in dict.fromkeys(kinds):
        place = "cpu" if device == "cpu" else "cuda"
        try:
            macs, way = _measure_macs(place, precision, threads)
        except NotAvailableError as reason:
            peaks[device, precision] = f"the peak in {precision} is not measured: {reason}"
            continue
        if place not in bandwidths:  # bytes per second, reads and writes together
            source = torch.zeros(COPIED[place], dtype=torch.uint8, device=place)
            target = torch.empty_like(source)
            copying = partial(target.copy_, source)
            bandwidths[place] = 2 * COPIED[place] / _best_seconds(copying, place)
        peaks[device, precision] = PeakFacts(
            macs=macs, bytes=bandwidths[place], measured_by=f"{way}; a copy in PyTorch"
        )
    return peaks


def higher(first: Peaks, second: Peaks) -> Peaks:
    """The better of two measurements, so that a disturbance of one does not lower a peak."""

    def macs(peak: PeakFacts | str) -> float:
        return peak.macs if isinstance(peak, PeakFacts) else 0.0

    return {kind: max(peak, second[kind], key=macs) for kind, peak in first.items()}


def _measure_macs(place: str, precision: str, threads: int) -> tuple[float, str]:
    """The most multiply-accumulates per second of the available ways, and the way."""
    if place == "cuda" and not torch.cuda.is_available():
        raise NotAvailableError("PyTorch finds no CUDA device here")
    rates: dict[str, float] = {}
    if precision in DTYPES:
        side = SIDE[place]
        a, b = (torch.randn(side, side, device=place).to(DTYPES[precision]) for _ in range(2))
        rates["a dense matrix product in PyTorch"] = side**3 / _best_seconds(lambda: torch.mm(a, b), place)
    if place == "cpu":
        try:
            rates["dense convolutions in OpenVINO"] = _openvino_macs(precision, threads)
        except NotAvailableError:
            if not rates:
                raise
    if not rates:
        raise NotAvailableError("no library here computes in it on that device")
    best = max(rates, key=lambda way: rates[way])
    return rates[best], best


def _openvino_macs(precision: str, threads: int) -> float:
    """Raises `NotAvailableError` where OpenVINO is missing, or computed at another precision."""
    core = require_openvino(precision)
    settings = latency_settings("bf16" if precision == "bf16" else "f32", threads)
    compiled = core.compile_model(core.read_model(dense_convolutions(quantized=precision == "int8")), "CPU", settings)
    infos = [operation.get_rt_info() for operation in compiled.get_runtime_model().get_ops()]
    kernels = {info["runtimePrecision"].astype(str) for info in infos if info["layerType"].astype(str) == "Convolution"}
    if not kernels or not kernels <= KERNELS[precision]:
        ran = ", ".join(sorted(kernels)) or "nothing known"
        raise NotAvailableError(f"asked for {precision}, OpenVINO computed in {ran}")
    request = compiled.create_infer_request()
    image = np.random.default_rng(0).random((1, CHANNELS, MAP_SIDE, MAP_SIDE), np.float32)
    macs = LAYERS * MAP_SIDE**2 * CHANNELS**2 * 9
    return macs / _best_seconds(lambda: request.infer([image], share_inputs=True), "cpu")


def _best_seconds(run: Callable[[], object], place: str) -> float:
    """The shortest of the runs in SECONDS, so that other load on the machine does not lower a peak."""

    def finish() -> None:
        if place == "cuda":
            torch.cuda.synchronize()

    run()
    durations: list[float] = []
    while sum(durations) < SECONDS:
        finish()
        begin = clock()
        run()
        finish()
        durations.append(clock() - begin)
    return min(durations)


def dense_convolutions(*, quantized: bool) -> bytes:
    """An ONNX file of 3x3 convolutions and ReLUs; quantized: 8-bit weights and activations (QDQ)."""
    rng, shape = np.random.default_rng(0), (CHANNELS, CHANNELS, 3, 3)
    constants: dict[str, np.ndarray[Any, Any]] = {
        "scale": np.array(0.02, np.float32),
        "zero": np.array(0, np.uint8),
        "weight_scale": np.full(CHANNELS, 3e-3, np.float32),
        "weight_zero": np.zeros(CHANNELS, np.int8),
    }
    x, lines = "x", []
    for layer in range(LAYERS):
        weight = f"weight{layer}"
        if quantized:
            constants[weight] = rng.integers(-127, 128, shape).astype(np.int8)
            lines.append(f"q{layer} = QuantizeLinear ({x}, scale, zero)")
            lines.append(f"x{layer} = DequantizeLinear (q{layer}, scale, zero)")
            lines.append(f"w{layer} = DequantizeLinear <axis = 0> ({weight}, weight_scale, weight_zero)")
            x, weight = f"x{layer}", f"w{layer}"
        else:
            constants[weight] = rng.normal(0, 0.03, shape).astype(np.float32)
        lines.append(f"conv{layer} = Conv <pads = [1, 1, 1, 1]> ({x}, {weight})")
        lines.append(f"y{layer} = Relu (conv{layer})")
        x = f"y{layer}"
    maps = f"float[1, {CHANNELS}, {MAP_SIDE}, {MAP_SIDE}]"
    graph = f"dense ({maps} x) => ({maps} {x}) {{ {' '.join(lines)} }}"
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": 18]> {graph}')
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(model)
    data: bytes = model.SerializeToString()
    return data
