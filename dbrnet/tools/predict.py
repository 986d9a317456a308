"""`dbrnet predict`: a trained model on pictures of one's own."""

import logging
import tempfile
from pathlib import Path

from dbrnet.deployment.prediction import predict_files
from dbrnet.deployment.runtimes import OnnxModel

log = logging.getLogger(__name__)


def predict(images: list[Path], *, model: str, out: Path) -> None:
    """Write a class-id mask and an overlay for each picture, and a table of each class's share.

    --model is an exported .onnx file, or a version in MLflow's registry by alias or number. Writes masks/,
    overlays/ and summary.csv under --out.
    """
    with tempfile.TemporaryDirectory() as scratch:
        written = predict_files(OnnxModel(_fetch(model, Path(scratch))), images, out)
    log.info("%d files written, the table last: %s", len(written), written[-1])


def _fetch(model: str, scratch: Path) -> Path:
    if not model.startswith("models:/"):
        return Path(model)
    from dbrnet.registry.promotion import fetch_model
    from dbrnet.registry.tracking import open_store  # mlflow takes seconds: only where it is asked for

    return fetch_model(model, scratch, store=open_store(Path.cwd()))
