"""`dbrnet predict`: a trained model on images of one's own."""

import logging
import tempfile
from pathlib import Path
from typing import cast

from dbrnet.errors import UserError
from dbrnet.files import require_apart
from dbrnet.inference.images import find_sources
from dbrnet.inference.predict import FORMATS, MASKS, OVERLAYS, Format, predict_sources
from dbrnet.inference.runtimes.registry import open_model
from dbrnet.registry.model_file import find_model_file

log = logging.getLogger(__name__)


def predict(
    sources: list[str],
    *,
    model: str,
    out: Path,
    runtime: str | None = None,
    batch: int = 1,
    formats: str = "masks,overlays",
    bit_depth: int = 16,
) -> None:
    """Predict images and the frames of videos, each at its own size.

    A folder stands for all images and videos in it and in its folders. Writes under --out, as --formats
    says: masks/ (PNG of class ids), overlays/ (JPEG), submission.csv (Severstal's run-length encoding) and
    coco.json (one annotation a defect); and always summary.csv, each class's share of every image. The
    tables come last. --out is new, empty, or of an earlier prediction, whose masks and overlays of other
    images stay. An image that cannot be read is passed over and named at the
    end (exit status 1).
    """
    chosen = _parse_formats(formats)
    if batch < 1:
        raise UserError(f"--batch is {batch}; it must be at least 1")
    if not 8 <= bit_depth <= 16:
        raise UserError(f"--bit-depth is {bit_depth}; it must be from 8 to 16")
    for word in [*sources, model]:
        require_apart(out, Path(word), "the input", may_lie_inside=True)
    with tempfile.TemporaryDirectory() as scratch:
        network = open_model(find_model_file(model, Path(scratch)), runtime)
        found = find_sources(sources, Path(scratch) / "sources", leave_out=[out / MASKS, out / OVERLAYS])
        count = predict_sources(network, found, out, formats=chosen, batch=batch, bit_depth=bit_depth)
    log.info("%d images predicted by %s; written under %s, the tables last", count, network.runtime, out)


def _parse_formats(text: str) -> frozenset[Format]:
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in FORMATS:
            raise UserError(f"--formats: there is no format {word!r}; choose of {', '.join(FORMATS)}")
    return frozenset(cast(list[Format], words))
