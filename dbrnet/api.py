"""The public Python API: `from dbrnet import load_model, open_dataset, read_image`.

Libraries are imported inside the functions, so that `import dbrnet` loads neither torch nor MLflow.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbrnet.data.dataset import Dataset, Image
    from dbrnet.inference.runtimes.base import Model


def open_dataset(folder: str | Path) -> "Dataset":
    """Open the dataset that `dbrnet ingest` wrote to `folder`.

    Its `samples` list the images; `image(sample)` is uint8 RGB [H, W, 3], `mask(sample)` class ids uint8 [H, W].
    Raises `UserError` where a table is missing or broken.
    """
    from dbrnet.data import open_dataset

    return open_dataset(Path(folder))


def load_model(name: str | Path, runtime: str | None = None, threads: int | None = None) -> "Model":
    """Load a trained model: `predict` takes images uint8 RGB [N, H, W, 3] with sides of at least 32 pixels.

    It returns class ids uint8 [N, H, W] and their confidence float32 [N, H, W] in 0 to 1; `classes` names the ids.

    Args:
        name: a model.pt, an exported .onnx, or models:/NAME@ALIAS or models:/NAME/VERSION in MLflow's registry.
        runtime: such as "openvino-int8"; None is the default runtime of the file's kind.
        threads: of the CPU; None uses all cores.

    Raises `UserError` for a file that is missing, broken or not ours, and `NotAvailableError`, which is one, for a
    runtime that this machine lacks.
    """
    from dbrnet.inference.runtimes import open_model

    if not str(name).startswith("models:/"):
        return open_model(Path(name), runtime, threads)  # which needs no disk that can be written to
    with tempfile.TemporaryDirectory() as scratch:
        return open_model(find_model_file(str(name), Path(scratch)), runtime, threads)


def find_model_file(name: str, scratch: Path) -> Path:
    """The file of the model called `name`: a path, or models:/NAME@ALIAS or /VERSION, fetched into `scratch`."""
    if not name.startswith("models:/"):
        return Path(name)
    from dbrnet.registry.store import open_store  # mlflow takes seconds: only where it is asked for
    from dbrnet.registry.versions import fetch_model

    return fetch_model(name, scratch, store=open_store(Path.cwd()))


def read_image(path: str | Path, bit_depth: int = 16) -> "Image":
    """Read an image file as uint8 RGB [H, W, 3], by the rules of `dbrnet predict` (docs/predict.md).

    `bit_depth` is how many bits of a 16-bit image the camera uses. Raises `UserError` that names the file where it
    is broken or of another kind, and `OSError` where it cannot be opened.
    """
    from dbrnet.inference.images import decode_image

    return decode_image(Path(path).read_bytes(), str(path), bit_depth)
