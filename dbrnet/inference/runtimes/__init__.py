"""Every runtime by its name: the file that it takes, whether this machine has it, and how to open it.

`config` reads the names to check params.yaml, so the runtimes' libraries are imported inside the functions.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from dbrnet.errors import UserError
from dbrnet.records import INT8_FILE, MODEL_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    from dbrnet.inference.runtimes.base import Model

RuntimeName = Literal[
    "pytorch-eager",
    "pytorch-compiled",
    "pytorch-cudagraph",
    "onnxruntime-cpu",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "openvino-fp32",
    "openvino-bf16",
    "openvino-int8",
]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)


def open_model(path: Path, runtime: str | None = None, threads: int | None = None) -> "Model":
    """Load the model file `path` into `runtime`, or into the default runtime of its kind.

    A model.pt is for the pytorch runtimes, an exported .onnx for the others. The defaults are pytorch-eager,
    onnxruntime-cpu, and openvino-int8 for a quantized file. A runtime is never replaced by another one silently.

    Raises `NotAvailableError` where this machine lacks the runtime, and `UserError` for an unknown runtime or a file
    that it does not take.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise UserError(f"there is no runtime {runtime!r}; choose one of {', '.join(RUNTIMES)}")
    family, _, variant = (runtime or "").partition("-")
    if path.suffix == ".pt" and family in {"", "pytorch"}:
        from dbrnet.inference.runtimes.pytorch import TorchModel
        from dbrnet.models.saved import load_model

        return TorchModel(*load_model(path), variant or "eager", threads)
    if path.suffix == ".pt" or family == "pytorch":
        raise UserError(f"{path}: {runtime} cannot run it; pytorch takes a model.pt, the others an .onnx file")
    from dbrnet.inference.runtimes.exported import OnnxModel, OpenVinoModel, read_exported

    file = read_exported(path)
    if family == "openvino" or (not family and file.precision == "int8"):
        return OpenVinoModel(file, variant or "int8", threads)
    return OnnxModel(file, variant or "cpu", threads)


def open_fitting(path: Path, runtime: str, threads: int | None = None) -> "Model":
    """The model file `path` in `runtime` if that takes its kind, else in the default runtime of its kind."""
    return open_model(path, runtime if file_of(runtime) == kind_of(path) else None, threads)


def kind_of(path: Path) -> str:
    """The kind of the model file `path`, as the name that `file_of` gives to that kind."""
    from dbrnet.inference.runtimes.exported import read_exported

    if path.suffix == ".pt":
        return WEIGHTS_FILE
    return INT8_FILE if read_exported(path).precision == "int8" else MODEL_FILE


def file_of(runtime: str) -> str:
    """The name of the file that `runtime` takes, as the train and export steps write it."""
    if runtime.startswith("pytorch"):
        return WEIGHTS_FILE
    return INT8_FILE if runtime == "openvino-int8" else MODEL_FILE


def open_all(
    runtimes: Sequence[str], trained: Path, exported: Path, threads: int | None = None
) -> tuple[dict[str, "Model"], dict[str, str]]:
    """The models in those of `runtimes` that are available, and for each of the others the reason why it is not.

    `trained` and `exported` are the output folders of these steps. Raises `UserError` for a broken file.
    """
    from dbrnet.inference.runtimes.base import NotAvailableError

    models: dict[str, Model] = {}
    missing: dict[str, str] = {}
    for name in runtimes:
        file = (trained if name.startswith("pytorch") else exported) / file_of(name)
        if name == "openvino-int8" and not file.exists():
            missing[name] = f"{name} is not available: export made no {file.name}; see export.json"
            continue
        try:
            models[name] = open_model(file, name, threads)
        except NotAvailableError as error:
            missing[name] = str(error)
    return models, missing


def why_not_available(runtime: str) -> str | None:
    """The reason in one line why `runtime` is not available here, or None where it is."""
    from dbrnet.inference.runtimes.base import NotAvailableError
    from dbrnet.inference.runtimes.exported import require_openvino, require_provider
    from dbrnet.inference.runtimes.pytorch import require_mode

    checks = {"pytorch": require_mode, "onnxruntime": require_provider, "openvino": require_openvino}
    family, _, variant = runtime.partition("-")
    try:
        checks[family](variant)
    except NotAvailableError as reason:
        return str(reason)
    return None
