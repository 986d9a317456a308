"""OpenVINO on the CPU: in float32, in bfloat16, or a quantized file in int8."""

from collections.abc import Callable
from functools import cache, cached_property
from typing import Any

from dbrnet.errors import UserError, install_hint
from dbrnet.inference.export import ExportedFile
from dbrnet.inference.runtimes.base import Answer, ByShape, Images, Logits, Mask, NotAvailableError, Shape, check_images
from dbrnet.provenance import available_cores


class OpenVinoModel:
    """An exported file in OpenVINO, at a precision: "fp32", "bf16" or "int8".

    `fixed`: each shape of image is compiled when it first comes, which takes about a second, and the last few are kept.
    This suits a line's camera. Otherwise one network takes all shapes, a fifth slower and with other rounding.

    int8 needs the quantized file, the others the plain one; `UserError` for the other. Raises `NotAvailableError` where
    OpenVINO is not installed or the CPU lacks the instructions.
    """

    def __init__(self, file: ExportedFile, precision: str, threads: int | None = None, *, fixed: bool = True) -> None:
        self.runtime = f"openvino-{precision}"
        self.device = "cpu"
        self.precision = precision
        self.threads = threads or available_cores()
        self.classes = file.classes
        self.metadata = file.metadata
        self._core = require_openvino(precision)
        if (precision == "int8") != (file.precision == "int8"):
            raise UserError(
                f"{file.path}: {self.runtime} cannot run a file of {file.precision}; export writes "
                "model.onnx for fp32 and bf16, and model-int8.onnx for int8"
            )
        self._file = file
        # What is left of an int8 file in higher precision computes in bf16.
        self._settings = latency_settings("f32" if precision == "fp32" else "bf16", self.threads)
        self._fixed = fixed
        self._request = self._opener(file)

    def predict(self, images: Images) -> Answer:
        """See `Model.predict`."""
        check_images(images)
        results = self._request(images.shape).infer([images], share_inputs=True)
        return results[0], results[1]

    def predict_with_logits(self, images: Images) -> tuple[Mask, Logits]:
        """See `Model.predict_with_logits`."""
        check_images(images)
        results = self._request_with_logits(images.shape).infer([images], share_inputs=True)
        return results[0], results[2]

    @cached_property
    def _request_with_logits(self) -> Callable[[Shape], Any]:
        return self._opener(self._file.with_logits())

    def _opener(self, file: ExportedFile) -> Callable[[Shape], Any]:
        try:
            model = self._core.read_model(file.data)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(f"{file.path}: {self.runtime} cannot run it ({reason})") from None
        if self._fixed:
            return ByShape(lambda shape: self._compile(model, shape))
        request = self._compile(model, None)
        return lambda shape: request

    def _compile(self, model: Any, shape: Shape | None) -> Any:
        if shape is not None:
            model = model.clone()
            model.reshape(list(shape))
        return self._core.compile_model(model, "CPU", self._settings).create_infer_request()


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
