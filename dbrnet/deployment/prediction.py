"""Pictures from disk to masks, overlays and a table: what `dbrnet predict` does."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from dbrnet.data.dataset import Image, decode_image
from dbrnet.deployment.runtimes.base import Model
from dbrnet.errors import UserError
from dbrnet.files import write_atomically
from dbrnet.overlay import add_legend, blend
from dbrnet.progress import progress

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
SUMMARY_FILE = "summary.csv"


def predict_files(model: Model, images: Sequence[Path], out: Path) -> list[Path]:
    """Predict pictures, each at its own size, and return the files written under `out`.

    For each picture `masks/<stem>.png` (class ids) and `overlays/<stem>.jpg`, then `summary.csv`: each
    class's share of the pixels and the mean confidence. A folder among `images` stands for the pictures in
    it; pictures of equal stem are numbered. Raises `UserError` at the first picture that cannot be read;
    those before it are written.
    """
    sources = _expand(images)
    stems = _unique_stems(sources)
    written: list[Path] = []
    table: list[list[object]] = [["file", *(info.name for info in model.classes), "mean_confidence"]]
    for source, stem in progress(zip(sources, stems, strict=True), len(sources), "predict"):
        image = _read(source)
        try:
            masks, confidences = model.predict(image[None])
        except UserError as error:
            raise UserError(f"{source}: {error}") from None
        mask = masks[0]
        shares = np.bincount(mask.ravel(), minlength=len(model.classes)) / mask.size
        overlay = add_legend(blend(image, mask, model.classes), model.classes, np.unique(mask))
        written.append(_write_picture(out / "masks" / f"{stem}.png", mask))
        bgr = cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR).astype(np.uint8, copy=False)
        written.append(_write_picture(out / "overlays" / f"{stem}.jpg", bgr))
        table.append([source, *(f"{share:.6f}" for share in shares), f"{confidences.mean():.4f}"])
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(table)
    write_atomically(out / SUMMARY_FILE, text.getvalue())
    return [*written, out / SUMMARY_FILE]


def _expand(paths: Sequence[Path]) -> list[Path]:
    sources: list[Path] = []
    for path in paths:
        if path.is_dir():
            found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
            if not found:
                raise UserError(f"{path}: no pictures in this folder (looked for {', '.join(SUFFIXES)})")
            sources += found
        else:
            sources.append(path)
    if not sources:
        raise UserError("no picture to predict; name picture files or folders of them")
    return sources


def _unique_stems(sources: Sequence[Path]) -> Iterator[str]:
    taken = {source.stem for source in sources}
    seen: set[str] = set()
    for source in sources:
        stem, number = source.stem, 2
        while stem in seen or (stem != source.stem and stem in taken):
            stem, number = f"{source.stem}-{number}", number + 1
        seen.add(stem)
        yield stem


def _read(path: Path) -> Image:
    try:
        return decode_image(path.read_bytes(), path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name picture files or folders") from None


def _write_picture(path: Path, pixels: Image) -> Path:
    _, data = cv2.imencode(path.suffix, pixels)  # in memory: any array of this type encodes
    write_atomically(path, data.tobytes())
    return path
