"""The model that this one is compared with, in the runtimes that take its file."""

from collections.abc import Sequence
from pathlib import Path

from dbrnet.errors import UserError
from dbrnet.inference.runtimes.base import Model
from dbrnet.inference.runtimes.registry import file_of, kind_of, open_model


def open_baselines(file: Path, runtimes: Sequence[str], threads: int) -> dict[str, Model]:
    """The model of `file` in each of `runtimes` that takes it; `UserError` where none does."""
    kind = kind_of(file)
    fitting = [name for name in runtimes if file_of(name) == kind]
    if not fitting:
        raise UserError(
            f"{file}: none of the runtimes measured here takes it ({', '.join(runtimes)}); "
            "compare with a model.pt or an exported .onnx, and see export.runtimes"
        )
    return {name: open_model(file, name, threads) for name in fitting}
