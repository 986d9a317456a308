"""Exported files, read and checked, and the runtimes that take them: ONNX Runtime and OpenVINO."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnx
import onnxruntime
from google.protobuf.message import DecodeError

from dbrnet.bounds import MINIMUM_SIDE
from dbrnet.data.dataset import ClassInfo
from dbrnet.errors import UserError, install_hint
from dbrnet.inference.runtimes.base import Answer, Images, Logits, Mask, NotAvailableError, check_images
from dbrnet.provenance import available_cores

PRODUCER = "dbrnet"
INPUTS = {"image": onnx.TensorProto.UINT8}
OUTPUTS = {"mask": onnx.TensorProto.UINT8, "confidence": onnx.TensorProto.FLOAT}
LOGITS = "logits"  # the tensor in the graph that both outputs follow from
KEPT_SHAPES = 4  # prepared at the same time: each takes memory

Shape = tuple[int, ...]
Run = Callable[[Images], Sequence[Any]]  # images to all outputs of the graph

# Full float32 on CUDA, which rounds to TF32 by default and so fails parity. TensorRT rounds too, and ONNX Runtime has
# no option against it: the environment variable NVIDIA_TF32_OVERRIDE=0 turns it off for a process.
PROVIDERS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "cpu": [("CPUExecutionProvider", {})],
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"})],
    "tensorrt": [("TensorrtExecutionProvider", {}), ("CUDAExecutionProvider", {"use_tf32": "0"})],
}

onnxruntime.disable_telemetry_events()


@dataclass(frozen=True)
class ExportedFile:
    """An ONNX file that `dbrnet export` wrote, checked: its bytes, and its metadata as text."""

    path: Path
    data: bytes
    metadata: dict[str, str]
    classes: tuple[ClassInfo, ...]

    @property
    def precision(self) -> str:
        """ "fp32" or "int8"."""
        return self.metadata.get("precision", "fp32")

    def with_logits(self) -> Self:
        """The same file with the logits, which the graph computes anyway, as a third output."""
        model = onnx.ModelProto.FromString(self.data)
        model.graph.output.append(onnx.helper.make_tensor_value_info(LOGITS, onnx.TensorProto.FLOAT, None))
        return replace(self, data=model.SerializeToString())


def read_exported(path: Path) -> ExportedFile:
    """Read and check `path`, before any runtime is given it.

    Raises `UserError` where it is missing, broken, not written by `export_onnx`, or its metadata contradicts its graph.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give an exported .onnx file") from None
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError, ValueError):
        raise UserError(f"{path}: not a readable ONNX file; export the model again") from None
    if model.producer_name != PRODUCER:
        raise UserError(f"{path}: an ONNX file, but not one that `dbrnet export` wrote; export the model")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    try:
        classes = tuple(ClassInfo(str(item["name"]), tuple(item["color"])) for item in json.loads(metadata["classes"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: it does not say which classes it knows; export the model again") from None
    _require_interface(path, model.graph)
    _require_finite(path, model.graph)
    channels = _logit_channels(model)
    if channels is not None and channels != len(classes):
        raise UserError(
            f"{path}: it names {len(classes)} classes and its network tells {channels} apart; export the model again"
        )
    return ExportedFile(path, data, metadata, classes)


def _require_interface(path: Path, graph: onnx.GraphProto) -> None:
    """Raise where inputs and outputs do not have the names and types that `export_onnx` writes."""
    for values, wanted in ((graph.input, INPUTS), (graph.output, OUTPUTS)):
        types = {value.name: value.type.tensor_type.elem_type for value in values}
        if [*types.items()] != [*wanted.items()]:  # the runtimes give the outputs in their order
            raise UserError(
                f"{path}: its inputs and outputs are not those that `dbrnet export` writes "
                f"({', '.join(types) or 'none'} in place of {', '.join(wanted)}, or of other types); "
                "export the model again"
            )


def _require_finite(path: Path, graph: onnx.GraphProto) -> None:
    """Raise for a damaged weight: the network would predict no defects, with a confidence of NaN."""
    for tensor in graph.initializer:
        # Export never writes this, and the path may lead anywhere.
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(f"{path}: {tensor.name} lies in another file; export the model again")
        try:
            values = onnx.numpy_helper.to_array(tensor)
        except (TypeError, ValueError):
            raise UserError(f"{path}: {tensor.name} is damaged; export the model again") from None
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UserError(f"{path}: {tensor.name} holds values that are not finite; export the model again")


def _logit_channels(model: onnx.ModelProto) -> int | None:
    """The number of classes of the logits, where shape inference gives it."""
    inferred = onnx.shape_inference.infer_shapes(model).graph
    for value in inferred.value_info:
        dimensions = value.type.tensor_type.shape.dim
        if value.name == LOGITS and len(dimensions) == 4 and dimensions[1].HasField("dim_value"):
            return int(dimensions[1].dim_value)
    return None


class ExportedModel(ABC):
    """An exported file in a runtime, prepared once for all shapes of image, or for each shape when it first comes.

    `by_shape`: the latter; the last few shapes are kept. `precision` is that of most of the arithmetic.
    """

    def __init__(
        self, file: ExportedFile, runtime: str, device: str, precision: str, threads: int | None, *, by_shape: bool
    ) -> None:
        self.runtime, self.device, self.precision = runtime, device, precision
        self.threads = threads or available_cores()
        self.classes, self.metadata = file.classes, file.metadata
        self._file, self._by_shape = file, by_shape
        self._run = self._prepare(file)

    def predict(self, images: Images) -> Answer:
        """See `Model.predict`."""
        check_images(images)
        mask, confidence = self._run(images)
        return mask, confidence

    def predict_with_logits(self, images: Images) -> tuple[Mask, Logits]:
        """See `Model.predict_with_logits`."""
        check_images(images)
        mask, _, logits = self._run_with_logits(images)
        return mask, logits

    @cached_property
    def _run_with_logits(self) -> Run:
        return self._prepare(self._file.with_logits())

    def _prepare(self, file: ExportedFile) -> Run:
        open_ = self.load(file)
        if not self._by_shape:
            return open_(None)
        opened = lru_cache(KEPT_SHAPES)(open_)
        return lambda images: opened(images.shape)(images)

    @abstractmethod
    def load(self, file: ExportedFile) -> Callable[[Shape | None], Run]:
        """Load `file`; the function returned prepares it for images of a shape, or of all shapes."""


class OnnxModel(ExportedModel):
    """An exported file in ONNX Runtime, on one device: "cpu", "cuda" or "tensorrt".

    On a GPU, a node that would fall back to the CPU is an error. Raises `NotAvailableError` where the installed ONNX
    Runtime or the machine lacks the device, and `UserError` where the file cannot be run.
    """

    def __init__(self, file: ExportedFile, device: str = "cpu", threads: int | None = None) -> None:
        require_provider(device)
        # With fixed sizes the graph's shape computations are folded; else those nodes would run on the CPU.
        super().__init__(file, f"onnxruntime-{device}", device, file.precision, threads, by_shape=device != "cpu")
        self.predict(np.zeros((1, MINIMUM_SIDE, MINIMUM_SIDE, 3), np.uint8))  # a device that cannot start fails here

    def load(self, file: ExportedFile) -> Callable[[Shape | None], Run]:
        """A session for each shape."""

        def open_(shape: Shape | None) -> Run:
            session = self.session(file, shape)
            return lambda images: session.run(None, {"image": images})

        return open_

    def session(self, file: ExportedFile, shape: Shape | None) -> Any:
        """A session for images of `shape`, or of all shapes."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4  # errors reach the user as exceptions
        if self.device != "cpu":
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        if shape is not None:
            for name, size in zip(("batch", "height", "width"), shape[:3], strict=True):
                options.add_free_dimension_override_by_name(name, size)
        providers = PROVIDERS[self.device]
        try:
            session = onnxruntime.InferenceSession(file.data, options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no narrower class
            reason = str(error).splitlines()[0]
            raise UserError(f"{file.path}: {self.runtime} cannot run it ({reason})") from None
        if session.get_providers()[0] != providers[0][0]:  # it falls back silently
            raise NotAvailableError(f"{self.runtime} is not available: its device did not start")
        return session


def require_provider(device: str) -> None:
    """Raise `NotAvailableError` where the installed ONNX Runtime was built without `device`."""
    if PROVIDERS[device][0][0] not in onnxruntime.get_available_providers():
        raise NotAvailableError(
            f"onnxruntime-{device} is not available: the installed ONNX Runtime is built for the CPU only; "
            "install onnxruntime-gpu in its place"
        )


class OpenVinoModel(ExportedModel):
    """An exported file in OpenVINO, at a precision: "fp32", "bf16" or "int8".

    `fixed`: each shape of image is compiled when it first comes, which takes about a second. This suits a line's
    camera. Otherwise one network takes all shapes, a fifth slower and with other rounding.

    int8 needs the quantized file, the others the plain one; `UserError` for the other. Raises `NotAvailableError` where
    OpenVINO is not installed or the CPU lacks the instructions.
    """

    def __init__(self, file: ExportedFile, precision: str, threads: int | None = None, *, fixed: bool = True) -> None:
        self._core = require_openvino(precision)
        if (precision == "int8") != (file.precision == "int8"):
            raise UserError(
                f"{file.path}: openvino-{precision} cannot run a file of {file.precision}; export writes "
                "model.onnx for fp32 and bf16, and model-int8.onnx for int8"
            )
        super().__init__(file, f"openvino-{precision}", "cpu", precision, threads, by_shape=fixed)

    def load(self, file: ExportedFile) -> Callable[[Shape | None], Run]:
        """Read the network, to be compiled for each shape."""
        try:
            network = self._core.read_model(file.data)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"{file.path}: {self.runtime} cannot run it ({reason})") from None
        # What is left of an int8 file in higher precision computes in bf16.
        settings = latency_settings("f32" if self.precision == "fp32" else "bf16", self.threads)

        def compile_(shape: Shape | None) -> Run:
            fitted = network
            if shape is not None:
                fitted = network.clone()
                fitted.reshape(list(shape))
            request = self._core.compile_model(fitted, "CPU", settings).create_infer_request()
            return lambda images: request.infer([images], share_inputs=True).to_tuple()

        return compile_


def latency_settings(hint: str, threads: int) -> dict[str, Any]:
    """OpenVINO's settings for the shortest time of one image; `hint` is its name of the precision."""
    return {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}


def require_openvino(precision: str) -> Any:
    """OpenVINO's core; `NotAvailableError` where it is not installed or cannot compute at `precision`."""
    try:
        core = _core()
    except ImportError:
        raise NotAvailableError(
            f"openvino-{precision} is not available: it is not installed; {install_hint('openvino')}"
        ) from None
    wanted = {"fp32": "FP32", "bf16": "BF16", "int8": "INT8"}[precision]
    if wanted not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise NotAvailableError(f"openvino-{precision} is not available: the CPU does not compute in it")
    return core


@cache
def _core() -> Any:
    """The process's only core.

    A core's CPU plugin replaces the thread's signal stack (for AMX), and restores the previous one when it ends. Two
    cores that end in another order leave a freed stack behind, on which the next signal handler crashes.
    """
    import openvino

    return openvino.Core()
