"""A factory's dataset, batch by batch: a previous dataset and a new batch make the next one.

An image is known by its pixels, whatever its file is called. What a batch cannot give goes to

quarantine.csv    file,reason: each file (or row of the csv) of the batch that is not in the dataset, and why
"""

import csv
import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.convert import Converted, ReadImage, convert, count_classes, describe, ordered_map
from dbrnet.data.dataset import Dataset, Sample
from dbrnet.data.image_decoding import read_any
from dbrnet.data.readers import factory
from dbrnet.data.readers.factory import Candidate, Rejected
from dbrnet.data.writer import inside, opened
from dbrnet.errors import UserError, one_line
from dbrnet.files import write_atomically
from dbrnet.progress import Progress

QUARANTINE_FILE = "quarantine.csv"


@dataclass
class Changes:
    """What a batch did, as ids of the dataset it made (withdrawn: of the previous one)."""

    new: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    relabelled: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.new)} images new, {len(self.unchanged)} unchanged, "
            f"{len(self.relabelled)} relabelled, {len(self.withdrawn)} withdrawn, "
            f"{len(self.rejected)} files in {QUARANTINE_FILE}"
        )


def build_factory_dataset(
    source: Path,
    out: Path,
    *,
    classes: Sequence[str],
    bit_depth: int = 16,
    previous: Path | None = None,
    max_quarantine: float = 0.05,
    progress: Progress | None = None,
) -> tuple[Dataset, Changes]:
    """Read a batch of a factory's own data and write previous + batch in canonical form into the folder `out`.

    `classes` are the defects' names, ids from 1. `bit_depth` is how many bits 16-bit images use. `previous`
    is a dataset that this function wrote before; it is only read. Of an image that it knows the batch's
    mask wins. The same batch again gives the previous dataset's bytes. Raises `UserError` where more than
    `max_quarantine` of the batch's images cannot be used.
    """
    about = factory.about(classes)
    before = _load_previous(previous, classes) if previous else None
    with opened(source, out) as root:
        listing = factory.list_source(root, classes)
        candidates = listing.candidates
        growth = _Growth(before, listing.withdrawn, len(about.classes), out)
        growth.changes.rejected += listing.rejected
        read = partial(read_any, bit_depth=bit_depth)
        results = ordered_map(partial(_try, read=read, classes=len(about.classes)), candidates)
        shown = progress(results, len(candidates), "ingest") if progress else results
        for candidate, result in zip(candidates, shown, strict=True):
            growth.take(candidate, result, root)
        _require_few(growth.changes, max_quarantine)
        samples = growth.finish()
        if not samples:
            raise UserError("leaves no image; give the folder or archive with images/ and their labels")
    if before and samples == before.samples:
        card = before.card  # nothing changed, so not a byte does
    else:
        notes = _notes(listing.labels, growth, bit_depth, before)
        card = describe(about, samples, growth.pixels, notes)
    dataset = Dataset(out, card, samples)
    dataset.save_tables()
    _write_quarantine(growth.changes.rejected, out)
    return dataset, growth.changes


class _Growth:
    """The dataset while a batch is taken into it, one image after the other."""

    def __init__(self, before: Dataset | None, withdrawn: Sequence[str], classes: int, out: Path) -> None:
        self.changes = Changes()
        self.pixels = np.zeros(classes, np.int64)  # of each class, in all masks
        self.overlaps: list[int] = []
        self.brightest: list[int] = []  # of the 16-bit images
        self._before = before
        self._out = out
        self._withdrawn = frozenset(withdrawn)
        self._rows: dict[str, Sample] = {}  # by id
        self._seen: dict[str, tuple[str, str]] = {}  # of this batch, by image: its file and both's hash
        if before:
            self._start_from(before)
        self._known = {sample.image_sha256: sample for sample in self._rows.values()}
        self._taken = {id_.casefold() for id_ in self._rows}  # two ids must be two files on any system

    def _start_from(self, before: Dataset) -> None:
        total = sum(sample.height * sample.width for sample in before.samples)
        shares = np.array(list(before.card.pixel_shares.values()))
        self.pixels += np.rint(shares * total).astype(np.int64)
        for sample in before.samples:
            if self._is_withdrawn(sample.id, Path(sample.image).name):
                self.changes.withdrawn.append(sample.id)
                self.pixels -= self._count(before, sample)
            else:
                self._rows[sample.id] = sample

    def take(self, candidate: Candidate, result: Converted | UserError, root: Path) -> None:
        """Take one image of the batch in, or say why not."""
        raw = candidate.raw
        if self._is_withdrawn(raw.id, raw.image.name):
            self._reject(candidate, root, f"is listed in {factory.WITHDRAWN}", counts=False)
        elif isinstance(result, UserError):
            self._reject(candidate, root, inside(root, str(result)))
        elif result.image_sha256 in self._seen:
            file, sha256 = self._seen[result.image_sha256]
            same = sha256 == result.sha256
            reason = f"is the same image as {file}{'' if same else ', and their masks differ'}"
            self._reject(candidate, root, reason, counts=not same)
        else:
            self._seen[result.image_sha256] = raw.image.name, result.sha256
            self._accept(candidate, result, root)

    def finish(self) -> tuple[Sample, ...]:
        """Copy what stays of the previous dataset, and return all rows by id."""
        rows = tuple(self._rows[id_] for id_ in sorted(self._rows))
        for sample in rows:
            for file in (sample.image, sample.mask):
                if self._before and not (self._out / file).exists():  # what is new is there already
                    shutil.copyfile(self._before.root / file, self._out / file)
        return rows

    def _accept(self, candidate: Candidate, one: Converted, root: Path) -> None:
        previous = self._known.get(one.image_sha256)
        if previous and previous.sha256 == one.sha256:
            self.changes.unchanged.append(previous.id)
        elif previous and self._before:
            self._rows[previous.id] = replace(one.row(previous.id), image=previous.image, group=previous.group)
            (self._out / previous.mask).write_bytes(one.mask)
            self.changes.relabelled.append(previous.id)
            self.pixels += one.pixels - self._count(self._before, previous)
        elif self._is_withdrawn(id_ := self._free_id(one), f"{id_}{one.suffix}"):
            self._reject(candidate, root, f"is listed in {factory.WITHDRAWN} as {id_}", counts=False)
        else:
            self._rows[id_] = one.store(id_, self._out)
            self._taken.add(id_.casefold())
            self.changes.new.append(id_)
            self.pixels += one.pixels
        self.overlaps += [one.overlap] if one.overlap else []
        self.brightest += [one.brightest] if one.brightest is not None else []

    def _free_id(self, one: Converted) -> str:
        """The file's name, with the image's hash behind it where another image has that name."""
        wanted = one.raw.id
        for id_ in (wanted, f"{wanted}-{one.image_sha256[:8]}"):
            if id_.casefold() not in self._taken:
                return id_
        return f"{wanted}-{one.image_sha256}"

    def _reject(self, candidate: Candidate, root: Path, reason: str, *, counts: bool = True) -> None:
        image, *masks = (path.relative_to(root).as_posix() for path in candidate.files)
        reason = reason.removeprefix(image).lstrip(": ")
        self.changes.rejected.append(Rejected(image, reason, counts))
        for mask in masks:
            self.changes.rejected.append(Rejected(mask, f"its image, {image}, is not used", counts=False))

    def _is_withdrawn(self, id_: str, file: str) -> bool:
        return factory.is_named(self._withdrawn, id_, file)

    def _count(self, dataset: Dataset, sample: Sample) -> NDArray[np.int64]:
        return count_classes(dataset.mask(sample), len(self.pixels), dataset.root / sample.mask)


def _try(candidate: Candidate, read: ReadImage, classes: int) -> Converted | UserError:
    try:
        return convert(candidate.raw, read, classes)
    except UserError as error:
        return error
    except PermissionError as error:
        return UserError(f"{error.filename} may not be read; change its permissions")


def _load_previous(root: Path, classes: Sequence[str]) -> Dataset:
    previous = Dataset.load(root)
    found = [info.name for info in previous.card.classes[1:]]
    if previous.card.name != factory.NAME:
        raise UserError(f"ingest.previous: {root} is {previous.card.name} and not own data; name another")
    if found != list(classes):
        raise UserError(
            f"ingest.previous: {root} has the classes {', '.join(found)} and ingest.classes are "
            f"{', '.join(classes)}; they must be the same, in the same order"
        )
    return previous


def _require_few(changes: Changes, bound: float) -> None:
    reasons = [one for one in changes.rejected if one.counts]
    images = len(reasons) + len(changes.new) + len(changes.unchanged) + len(changes.relabelled)
    if len(reasons) > bound * images:
        examples = "; ".join(f"{one.file}: {one.reason}" for one in reasons[:3])
        raise UserError(
            f"{len(reasons)} of {images} images cannot be used, a share above ingest.max_quarantine "
            f"({bound:g}; 1 lists all in {QUARANTINE_FILE}): {examples}{'; ...' if len(reasons) > 3 else ''}"
        )


def _notes(labels: str, growth: _Growth, bit_depth: int, before: Dataset | None) -> tuple[str, ...]:
    """How the batch was read, and what it changed."""
    notes = [
        f"labels of the last batch: {labels}; where classes overlap the highest class id wins: "
        f"{sum(growth.overlaps)} pixels in {len(growth.overlaps)} images",
        "images are read as they are displayed, turned as EXIF says, and masks must be labelled so",
    ]
    if growth.brightest:
        notes.append(
            f"{len(growth.brightest)} images came with 16 bits, of which {bit_depth} are used "
            f"(ingest.bit_depth) and the upper 8 of those are kept; their highest value is "
            f"{max(growth.brightest)}"
        )
    if bare := sum(one.reason == factory.NO_MASK for one in growth.changes.rejected):
        notes.append(f"{bare} images of the last batch have no mask and are left out")
    grown = f"grown from content {before.card.content_hash[:12]}" if before else "the first batch"
    return (*notes, f"{grown}: {growth.changes}")


def _write_quarantine(rejected: Sequence[Rejected], out: Path) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("file", "reason"))
    writer.writerows(sorted((one_line(one.file), one_line(one.reason)) for one in rejected))
    write_atomically(out / QUARANTINE_FILE, text.getvalue())
