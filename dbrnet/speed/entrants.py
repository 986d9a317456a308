"""The runtimes that are measured, each with the file that it takes."""

from collections.abc import Sequence
from pathlib import Path

from dbrnet.deployment.exported_file import read_exported
from dbrnet.deployment.runtimes.base import Model, NotAvailableError
from dbrnet.deployment.runtimes.catalogue import open_model, why_not_available
from dbrnet.errors import UserError

QUANTISED = "openvino-int8"  # the one that takes the quantised file


def open_entrants(
    runtimes: Sequence[str], network: Path, exported: Path, threads: int
) -> tuple[dict[str, Model], dict[str, str]]:
    """Those of `runtimes` that there are here, and for each of the others the reason why not.

    `network` is a model.pt, `exported` the folder of model.onnx and, where one was made, model-int8.onnx.
    Raises `UserError` for a file that cannot be run, and where no runtime is left.
    """
    models: dict[str, Model] = {}
    missing: dict[str, str] = {}
    for name in runtimes:
        file = network if name.startswith("pytorch") else exported / "model.onnx"
        if name == QUANTISED:
            file = exported / "model-int8.onnx"
        reason = why_not_available(name)
        if reason is None and name == QUANTISED and not file.exists():
            reason = f"{name} is not available: {file} does not exist; export made no quantised file"
        if reason is not None:
            missing[name] = reason
            continue
        try:
            models[name] = open_model(file, name, threads)
        except NotAvailableError as unavailable:
            missing[name] = str(unavailable)
    if not models:
        raise UserError(f"no runtime to measure: {'; '.join(missing.values())}")
    return models, missing


def open_rivals(file: Path, runtimes: Sequence[str], threads: int) -> dict[str, Model]:
    """The model of `file` in each of `runtimes` that takes it; `UserError` where none does."""
    if file.suffix == ".pt":
        fitting = [name for name in runtimes if name.startswith("pytorch")]
    else:
        quantised = read_exported(file).precision == "int8"
        fitting = [
            name for name in runtimes if not name.startswith("pytorch") and (name == QUANTISED) == quantised
        ]
    if not fitting:
        raise UserError(
            f"{file}: none of the runtimes measured here takes it ({', '.join(runtimes)}); "
            "compare with a model.pt or an exported .onnx, and see benchmark.runtimes"
        )
    return {name: open_model(file, name, threads) for name in fitting}
