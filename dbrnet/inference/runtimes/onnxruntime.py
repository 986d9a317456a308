"""ONNX Runtime: on the CPU, on NVIDIA's CUDA, or through TensorRT."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import onnxruntime

from dbrnet.bounds import MINIMUM_SIDE
from dbrnet.errors import UserError
from dbrnet.inference.export import LOGITS, ExportedFile
from dbrnet.inference.runtimes.base import Answer, ByShape, Images, Logits, Mask, NotAvailableError, Shape, check_images
from dbrnet.provenance import available_cores

# Full float32 on CUDA, which rounds to TF32 by default and so fails parity. TensorRT rounds too, and ONNX Runtime has
# no option against it: the environment variable NVIDIA_TF32_OVERRIDE=0 turns it off for a process.
PROVIDERS: dict[str, list[tuple[str, dict[str, str]]]] = {
    "cpu": [("CPUExecutionProvider", {})],
    "cuda": [("CUDAExecutionProvider", {"use_tf32": "0"})],
    "tensorrt": [("TensorrtExecutionProvider", {}), ("CUDAExecutionProvider", {"use_tf32": "0"})],
}

onnxruntime.disable_telemetry_events()


class OnnxModel:
    """An exported file in ONNX Runtime, on one device: "cpu", "cuda" or "tensorrt".

    On a GPU, a node that would fall back to the CPU is an error. Raises `NotAvailableError` where the installed ONNX
    Runtime or the machine lacks the device, and `UserError` where the file cannot be run.
    """

    def __init__(self, file: ExportedFile, device: str = "cpu", threads: int | None = None) -> None:
        self.runtime = f"onnxruntime-{device}"
        self.device = device
        self.precision = file.precision
        self.threads = threads or available_cores()
        self.classes = file.classes
        self.metadata = file.metadata
        self._file = file
        require_provider(device)
        self._session = self._opener(file)
        self._session((1, MINIMUM_SIDE, MINIMUM_SIDE, 3))  # a device that cannot start fails here

    def predict(self, images: Images) -> Answer:
        """See `Model.predict`."""
        check_images(images)
        mask, confidence = self._session(images.shape).run(["mask", "confidence"], {"image": images})
        return mask, confidence

    def predict_with_logits(self, images: Images) -> tuple[Mask, Logits]:
        """See `Model.predict_with_logits`."""
        check_images(images)
        mask, logits = self._session_with_logits(images.shape).run(["mask", LOGITS], {"image": images})
        return mask, logits

    @cached_property
    def _session_with_logits(self) -> Callable[[Shape], Any]:
        return self._opener(self._file.with_logits())

    def _opener(self, file: ExportedFile) -> Callable[[Shape], Any]:
        if self.device != "cpu":
            # With fixed sizes the graph's shape computations are folded; else those nodes would run on the CPU.
            return ByShape(lambda shape: self._open(file, shape))
        session = self._open(file, None)
        return lambda shape: session

    def _open(self, file: ExportedFile, shape: Shape | None) -> Any:
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
