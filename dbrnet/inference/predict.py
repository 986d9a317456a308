"""Images to masks, overlays and tables, for `dbrnet predict`."""

import logging
from collections.abc import Iterable, Iterator, Sequence
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
from dbrnet.inference.images import Source, declared_frames, decode_image, read_frames
from dbrnet.inference.runtimes.base import Model
from dbrnet.inference.tables import (
    COCO_FILE,
    SUBMISSION_FILE,
    SUMMARY_FILE,
    Coco,
    ImageRow,
    Submission,
    Summary,
    Table,
    find_defects,
)
from dbrnet.overlay import add_legend, blend
from dbrnet.parallel import ordered_map
from dbrnet.progress import progress

Format = Literal["masks", "overlays", "rle", "coco"]
FORMATS: tuple[Format, ...] = get_args(Format)
MASKS, OVERLAYS = "masks", "overlays"  # folders below `out`
BATCH_PIXELS = 2**24  # the most pixels of a batch, unless one image has more

log = logging.getLogger(__name__)


def predict_sources(
    model: Model, sources: Sequence[Source], out: Path, *, formats: frozenset[Format], batch: int, bit_depth: int
) -> int:
    """Predict all images of `sources`, each at its own size, write what `formats` name, and return their number.

    Consecutive images of one size are predicted together, up to `batch`. Threads read ahead a fixed number of images.
    The tables come last. An image that cannot be read or predicted is skipped; when all others are written, a
    `JobError` names it. Raises `UserError` where `out` holds files that `dbrnet predict` did not write.
    """
    _clear(out)
    failures: list[UserError] = []
    with ExitStack() as stack:
        tables: list[Table] = [Summary(out, model.classes)]
        if "rle" in formats:
            tables.append(Submission(out))
        if "coco" in formats:
            origin = {key: value for key, value in model.metadata.items() if key != "classes"}
            about = {"description": "defects predicted by DBRNet", "runtime": model.runtime, "model": origin}
            tables.append(Coco(out, model.classes, about))
        for table in tables:
            stack.callback(table.discard)
        count = sum(declared_frames(source.path) if source.is_video else 1 for source in sources)
        loaded = ordered_map(partial(_load, bit_depth=bit_depth), _requests(sources))
        predicted = _predict(model, _readable(loaded, failures), batch, failures)
        write = partial(_write, classes=model.classes, out=out, formats=formats)
        done = 0
        for row in progress(ordered_map(write, predicted), count, "predict"):
            for table in tables:
                table.add(row)
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
class _Request:
    """An image to predict."""

    place: str
    name: str
    output: str
    content: Path | Image | UserError  # an image's file, which is read later, a video's frame, or why there is none


_Loaded = tuple[_Request, Image]
_Predicted = tuple[_Request, Image, Mask, NDArray[np.float32]]


def _clear(out: Path) -> None:
    """Remove a previous run's tables, which would not fit the new masks, and what a killed run left."""
    require_own(out, "predict")
    claim(out, "predict")
    for name in (SUMMARY_FILE, SUBMISSION_FILE, COCO_FILE):
        (out / name).unlink(missing_ok=True)
        (out / f".{name}.partial").unlink(missing_ok=True)
    for folder in (MASKS, OVERLAYS):
        for path in (out / folder).rglob(".*.partial"):
            path.unlink()


def _requests(sources: Iterable[Source]) -> Iterator[_Request]:
    """Every image, and every frame of a video, which becomes VIDEO/000001.png and so on."""
    for source in sources:
        if not source.is_video:
            yield _Request(source.place, source.name, source.output, source.path)
            continue
        try:
            for number, frame in enumerate(read_frames(source.path, source.place), start=1):
                output = f"{source.output}/{number:06d}"
                yield _Request(f"{source.place}#{number}", f"{output}.png", output, frame)
        except UserError as error:
            yield _Request(source.place, source.name, source.output, error)


def _load(request: _Request, bit_depth: int) -> _Loaded | UserError:
    content = request.content
    try:
        if isinstance(content, Path):
            content = decode_image(content.read_bytes(), request.place, bit_depth)
    except OSError as error:
        return UserError(f"{request.place}: cannot be read ({error.strerror})")
    except UserError as error:
        return error
    return content if isinstance(content, UserError) else (request, content)


def _readable(results: Iterable[_Loaded | UserError], failures: list[UserError]) -> Iterator[_Loaded]:
    for result in results:
        if isinstance(result, UserError):
            failures.append(result)
        else:
            yield result


def _predict(model: Model, images: Iterable[_Loaded], batch: int, failures: list[UserError]) -> Iterator[_Predicted]:
    for same_size in _batches(images, batch):
        try:
            masks, confidences = model.predict(np.stack([image for _, image in same_size]))
        except UserError as error:  # the same for all: it comes from their size
            failures += [UserError(f"{request.place}: {error}") for request, _ in same_size]
            continue
        for (request, image), mask, confidence in zip(same_size, masks, confidences, strict=True):
            yield request, image, mask, confidence


def _batches(images: Iterable[_Loaded], batch: int) -> Iterator[list[_Loaded]]:
    """Consecutive images of one size, at most `batch` of them and BATCH_PIXELS."""
    same_size: list[_Loaded] = []
    for loaded in images:
        height, width, _ = shape = loaded[1].shape
        room = max(1, min(batch, BATCH_PIXELS // (height * width)))
        if same_size and (same_size[0][1].shape != shape or len(same_size) >= room):
            yield same_size
            same_size = []
        same_size.append(loaded)
    if same_size:
        yield same_size


def _write(predicted: _Predicted, *, classes: Sequence[ClassInfo], out: Path, formats: frozenset[Format]) -> ImageRow:
    """Write the mask and the overlay of one image, and return what the tables hold of it."""
    request, image, mask, confidence = predicted
    if "masks" in formats:
        _write_image(out / MASKS, f"{request.output}.png", mask)
    if "overlays" in formats:
        overlay = add_legend(blend(image, mask, classes), classes, np.unique(mask))
        _write_image(out / OVERLAYS, f"{request.output}.jpg", cv2.cvtColor(overlay, cv2.COLOR_RGB2BGR))
    return ImageRow(
        place=request.place,
        name=request.name,
        output=request.output,
        height=mask.shape[0],
        width=mask.shape[1],
        shares=np.bincount(mask.ravel(), minlength=len(classes)) / mask.size,
        confidence=float(confidence.mean()),
        runs=[encode(mask == index) for index in range(1, len(classes))] if "rle" in formats else (),
        defects=find_defects(mask, confidence, classes) if "coco" in formats else (),
    )


def _write_image(folder: Path, name: str, pixels: cv2.typing.MatLike) -> None:
    _, data = cv2.imencode(PurePosixPath(name).suffix, pixels)  # in memory: any array of this type encodes
    write_atomically(folder / name, data.tobytes())
