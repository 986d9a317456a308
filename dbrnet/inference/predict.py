"""Images to masks, overlays and tables: what `dbrnet predict` does."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo, Image, Mask
from dbrnet.data.rle import encode
from dbrnet.errors import JobError, UserError
from dbrnet.files import claim, require_own, write_atomically
from dbrnet.inference.defects import find_defects
from dbrnet.inference.image_reading import decode_image
from dbrnet.inference.image_sources import Source
from dbrnet.inference.runtimes.base import Model
from dbrnet.inference.tables import COCO_FILE, SUBMISSION_FILE, SUMMARY_FILE, Coco, Found, Submission, Summary, Table
from dbrnet.inference.video import declared_frames, read_frames
from dbrnet.overlay import add_legend, blend
from dbrnet.parallel import ordered_map
from dbrnet.progress import progress

Format = Literal["masks", "overlays", "rle", "coco"]
FORMATS: tuple[Format, ...] = get_args(Format)
MASKS, OVERLAYS = "masks", "overlays"  # folders below `out`
BATCH_PIXELS = 2**24  # a batch holds no more of them, unless one image does

log = logging.getLogger(__name__)


def predict_sources(
    model: Model,
    sources: Sequence[Source],
    out: Path,
    *,
    formats: frozenset[Format] = frozenset({"masks", "overlays"}),
    batch: int = 1,
    bit_depth: int = 16,
) -> int:
    """Predict all images of `sources`, each at its own size, write what `formats` name, and count them.

    Images of one size that follow each other are predicted together, up to `batch`; images are read
    ahead by threads, a fixed number of them. The tables come last. An image that cannot be read or predicted
    is passed over; after all the others are written, raises `JobError` that names it. Raises `UserError`
    where `out` holds files and `dbrnet predict` has not written there before.
    """
    _clear(out)
    failures: list[UserError] = []
    with ExitStack() as stack:
        tables = _open_tables(model, out, formats)
        for table in tables:
            stack.callback(table.discard)
        count = sum(declared_frames(source.path) if source.is_video else 1 for source in sources)
        loaded = ordered_map(_load, _asked(sources, bit_depth))
        predicted = _predict(model, _kept(loaded, failures), batch, failures)
        describe = partial(_describe, classes=model.classes, out=out, formats=formats)
        done = 0
        for found in progress(ordered_map(describe, predicted), count, "predict"):
            for table in tables:
                table.add(found)
            done += 1
        for table in tables:
            table.publish()
    if failures:
        for failure in failures[1:]:
            log.error("%s", failure)
        others = f" (and {len(failures) - 1} more, named above)" if len(failures) > 1 else ""
        raise JobError(f"{done} predicted, {len(failures)} not: {failures[0]}{others}")
    return done


@dataclass(frozen=True)
class _Asked:
    """An image to be predicted, not yet in memory (a video's frame is)."""

    place: str
    name: str
    output: str
    load: Callable[[], Image]  # raises `UserError`


@dataclass(frozen=True)
class _Loaded:
    asked: _Asked
    image: Image


@dataclass(frozen=True)
class _Predicted:
    loaded: _Loaded
    mask: Mask
    confidence: NDArray[np.float32]


def _clear(out: Path) -> None:
    """Remove a previous run's tables, which would not fit the masks to come, and what a killed run left."""
    require_own(out, "predict")
    claim(out, "predict")
    for name in (SUMMARY_FILE, SUBMISSION_FILE, COCO_FILE):
        (out / name).unlink(missing_ok=True)
        (out / f".{name}.partial").unlink(missing_ok=True)
    for folder in (MASKS, OVERLAYS):
        for path in (out / folder).rglob(".*.partial"):
            path.unlink()


def _open_tables(model: Model, out: Path, formats: frozenset[Format]) -> list[Table]:
    tables: list[Table] = [Summary(out, model.classes)]
    if "rle" in formats:
        tables.append(Submission(out))
    if "coco" in formats:
        origin = {key: value for key, value in model.metadata.items() if key != "classes"}
        info = {"description": "defects predicted by DBRNet", "runtime": model.runtime, "model": origin}
        tables.append(Coco(out, model.classes, info))
    return tables


def _asked(sources: Iterable[Source], bit_depth: int) -> Iterator[_Asked]:
    """Every image, and every frame of a video, which becomes VIDEO/000001.png and so on."""
    for source in sources:
        if not source.is_video:
            yield _Asked(source.place, source.name, source.output, partial(_read, source, bit_depth))
            continue
        try:
            for number, frame in enumerate(read_frames(source.path, source.place), start=1):
                output = f"{source.output}/{number:06d}"
                yield _Asked(f"{source.place}#{number}", f"{output}.png", output, partial(_same, frame))
        except UserError as error:
            yield _Asked(source.place, source.name, source.output, partial(_fail, error))


def _read(source: Source, bit_depth: int) -> Image:
    try:
        return decode_image(source.path.read_bytes(), source.place, bit_depth)
    except OSError as error:
        raise UserError(f"{source.place}: cannot be read ({error.strerror})") from None


def _same(frame: Image) -> Image:
    return frame


def _fail(error: UserError) -> Image:
    raise error


def _load(asked: _Asked) -> _Loaded | UserError:
    try:
        return _Loaded(asked, asked.load())
    except UserError as error:
        return error


def _kept(loaded: Iterable[_Loaded | UserError], failures: list[UserError]) -> Iterator[_Loaded]:
    for one in loaded:
        if isinstance(one, UserError):
            failures.append(one)
        else:
            yield one


def _predict(model: Model, images: Iterable[_Loaded], batch: int, failures: list[UserError]) -> Iterator[_Predicted]:
    for group in _batches(images, batch):
        try:
            masks, confidences = model.predict(np.stack([one.image for one in group]))
        except UserError as error:  # the same for all: it comes from their size
            failures += [UserError(f"{one.asked.place}: {error}") for one in group]
            continue
        for one, mask, confidence in zip(group, masks, confidences, strict=True):
            yield _Predicted(one, mask, confidence)


def _batches(images: Iterable[_Loaded], batch: int) -> Iterator[list[_Loaded]]:
    """Images that follow each other and have one size, at most `batch` of them and BATCH_PIXELS."""
    group: list[_Loaded] = []
    for one in images:
        height, width = one.image.shape[:2]
        room = max(1, min(batch, BATCH_PIXELS // (height * width)))
        if group and (group[0].image.shape != one.image.shape or len(group) >= room):
            yield group
            group = []
        group.append(one)
    if group:
        yield group


def _describe(predicted: _Predicted, *, classes: Sequence[ClassInfo], out: Path, formats: frozenset[Format]) -> Found:
    """Write the mask and the overlay of one image, and work out what the tables say of it."""
    asked, image, mask = predicted.loaded.asked, predicted.loaded.image, predicted.mask
    if "masks" in formats:
        _write_image(out / MASKS, f"{asked.output}.png", mask)
    if "overlays" in formats:
        overlay = add_legend(blend(image, mask, classes), classes, np.unique(mask))
        _write_image(out / OVERLAYS, f"{asked.output}.jpg", cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
    return Found(
        place=asked.place,
        name=asked.name,
        output=asked.output,
        height=mask.shape[0],
        width=mask.shape[1],
        shares=np.bincount(mask.ravel(), minlength=len(classes)) / mask.size,
        confidence=float(predicted.confidence.mean()),
        runs=[encode(mask == index) for index in range(1, len(classes))] if "rle" in formats else (),
        defects=find_defects(mask, predicted.confidence, classes) if "coco" in formats else (),
    )


def _write_image(folder: Path, name: str, pixels: cv2.typing.MatLike) -> None:
    _, data = cv2.imencode(PurePosixPath(name).suffix, pixels)  # in memory: any array of this type encodes
    write_atomically(folder / name, data.tobytes())
