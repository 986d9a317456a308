"""Every runtime by its name: which file it takes, whether this machine has it, and how to open it."""

from collections.abc import Sequence
from pathlib import Path

import torch

from dbrnet.errors import UserError
from dbrnet.inference.exported_file import read_exported
from dbrnet.inference.runtimes import RUNTIMES
from dbrnet.inference.runtimes.base import Model, NotAvailableError
from dbrnet.inference.runtimes.onnxruntime import OnnxModel, require_provider
from dbrnet.inference.runtimes.openvino import OpenVinoModel, require_openvino
from dbrnet.inference.runtimes.pytorch import TorchModel
from dbrnet.models.saved import load_model


def open_model(path: Path, runtime: str | None = None, threads: int | None = None) -> Model:
    """Load the model file `path` into `runtime`, or into its kind's usual one.

    A model.pt is for the pytorch runtimes, an exported .onnx for the others; the usual ones are
    pytorch-eager, onnxruntime-cpu, and openvino-int8 for a quantized file. Nothing is ever replaced in
    silence: raises `NotAvailableError` where this machine lacks the runtime, `UserError` where there is none
    of that name or the file is not for it.
    """
    if runtime is not None and runtime not in RUNTIMES:
        raise UserError(f"there is no runtime {runtime!r}; choose one of {', '.join(RUNTIMES)}")
    family, _, variant = (runtime or "").partition("-")
    if path.suffix == ".pt" and family in {"", "pytorch"}:
        return TorchModel(*load_model(path), variant or "eager", threads)
    if path.suffix == ".pt" or family == "pytorch":
        raise UserError(f"{path}: {runtime} cannot run it; pytorch takes a model.pt, the others an .onnx file")
    file = read_exported(path)
    if family == "openvino" or (not family and file.precision == "int8"):
        return OpenVinoModel(file, variant or "int8", threads)
    return OnnxModel(file, variant or "cpu", threads)


def open_fitting(path: Path, runtime: str, threads: int | None = None) -> Model:
    """The model file `path` in `runtime` if that takes a file of its kind, else in its kind's usual one."""
    return open_model(path, runtime if file_of(runtime) == kind_of(path) else None, threads)


def kind_of(path: Path) -> str:
    """Which of the files that `file_of` names the model file `path` is, whatever it is called."""
    if path.suffix == ".pt":
        return "model.pt"
    return "model-int8.onnx" if read_exported(path).precision == "int8" else "model.onnx"


def file_of(runtime: str) -> str:
    """The name of the file that `runtime` takes, as the train and export steps write it."""
    if runtime.startswith("pytorch"):
        return "model.pt"
    return "model-int8.onnx" if runtime == "openvino-int8" else "model.onnx"


def open_all(
    runtimes: Sequence[str], trained: Path, exported: Path, threads: int | None = None
) -> tuple[dict[str, Model], dict[str, str]]:
    """Those of `runtimes` that there are here, and for each of the others the reason why not.

    `trained` and `exported` are the folders that the steps wrote. Raises `UserError` for a broken file.
    """
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
    """None where this machine and installation have `runtime`, else the reason in one line."""
    family, _, variant = runtime.partition("-")
    try:
        if family == "openvino":
            require_openvino(variant)
        elif family == "onnxruntime":
            require_provider(variant)
        elif variant == "cudagraph" and not torch.cuda.is_available():
            return f"{runtime} is not available: PyTorch finds no CUDA device here"
    except NotAvailableError as reason:
        return str(reason)
    return None
