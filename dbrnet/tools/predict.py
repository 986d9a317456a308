"""`dbrnet predict`: a trained model on pictures of one's own."""

import logging
import tempfile
from pathlib import Path

from dbrnet.deployment.prediction import predict_files
from dbrnet.deployment.runtimes.catalogue import open_model
from dbrnet.registry.model_file import find_model_file

log = logging.getLogger(__name__)


def predict(images: list[Path], *, model: str, out: Path) -> None:
    """Write a class-id mask and an overlay for each picture, and a table of each class's share.

    --model is an exported .onnx file, or a version in MLflow's registry by alias or number. Writes masks/,
    overlays/ and summary.csv under --out.
    """
    with tempfile.TemporaryDirectory() as scratch:
        written = predict_files(open_model(find_model_file(model, Path(scratch))), images, out)
    log.info("%d files written, the table last: %s", len(written), written[-1])
