"""A factory's dataset, batch by batch: the previous dataset and a new batch make the next one.

An image is identified by its pixels, whatever its file is called. What cannot be used is listed in

quarantine.csv    file,reason: each file (or row of the csv) of the batch that is not in the dataset, and why
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Dataset, Sample, write_table
from dbrnet.data.readers import RawSample, factory
from dbrnet.data.readers.factory import Rejected
from dbrnet.data.writer import Converted, convert, count_classes, make_card, opened_source, without_root
from dbrnet.errors import UserError, one_line
from dbrnet.parallel import ordered_map
from dbrnet.progress import progress

QUARANTINE_FILE = "quarantine.csv"


@dataclass
class Changes:
    """What a batch changed, as ids of the dataset it made (withdrawn: of the previous one)."""

    new: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    relabelled: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{len(self.new)} images new, {len(self.unchanged)} unchanged, {len(self.relabelled)} relabelled, "
            f"{len(self.withdrawn)} withdrawn, {len(self.rejected)} files in {QUARANTINE_FILE}"
        )


def build_factory_dataset(
    source: Path,
    out: Path,
    *,
    classes: Sequence[str],
    bit_depth: int = 16,
    previous: Path | None = None,
    max_quarantine: float = 0.05,
) -> tuple[Dataset, Changes]:
    """Read a batch of a factory's own data, and write previous dataset + batch in canonical form into `out`.

    `classes` are the defects' names, ids from 1. `bit_depth` is how many bits 16-bit images use. `previous` is a
    dataset that this function wrote; it is only read. For an image that it holds already, the batch's mask
    wins. The same batch again gives the same bytes. Raises `UserError` where more than the share
    `max_quarantine` of the batch's images cannot be used.
    """
    info = factory.dataset_info(classes)
    before = _load_previous(previous, classes) if previous else None

    def try_convert(raw: RawSample) -> Converted | UserError:
        try:
            return convert(raw, len(info.classes), bit_depth)
        except UserError as error:
            return error
        except PermissionError as error:
            return UserError(f"{error.filename} may not be read; change its permissions")

    with opened_source(source, out) as root:
        listing = factory.list_source(root, classes)
        merge = _Merge(before, listing, len(info.classes), root, out)
        results = progress(ordered_map(try_convert, listing.samples), len(listing.samples), "ingest")
        for raw, result in zip(listing.samples, results, strict=True):
            merge.take(raw, result)
        _require_few_rejected(merge.changes, max_quarantine)
        samples = merge.finish()
        if not samples:
            raise UserError("leaves no image; give the folder or archive with images/ and their labels")
    if before and samples == before.samples:
        card = before.card  # nothing changed, so not a byte does
    else:
        card = make_card(info, samples, merge.pixels, _notes(listing.labels, merge, bit_depth, before))
    dataset = Dataset(out, card, samples)
    dataset.save_tables()
    rejected = sorted((one_line(item.file), one_line(item.reason)) for item in merge.changes.rejected)
    write_table(out / QUARANTINE_FILE, ("file", "reason"), rejected)
    return dataset, merge.changes


class _Merge:
    """The next dataset while a batch is merged into the previous one, image by image."""

    def __init__(self, before: Dataset | None, listing: factory.Listing, classes: int, root: Path, out: Path) -> None:
        self.changes = Changes(rejected=list(listing.rejected))
        self.pixels = np.zeros(classes, np.int64)  # of each class, in all masks
        self.overlaps: list[int] = []
        self.brightest: list[int] = []  # of the 16-bit images
        self._before = before
        self._root = root
        self._out = out
        self._withdrawn = listing.withdrawn
        self._rows: dict[str, Sample] = {}  # by id
        self._batch: dict[str, tuple[str, str]] = {}  # image_sha256 -> file and sha256 of an image of this batch
        if before:
            pixels = sum(sample.height * sample.width for sample in before.samples)
            self.pixels += np.rint(np.array(list(before.card.pixel_shares.values())) * pixels).astype(np.int64)
        for sample in before.samples if before else ():
            if factory.is_named(self._withdrawn, sample.id, Path(sample.image).name):
                self.changes.withdrawn.append(sample.id)
                self.pixels -= self._count(sample)
            else:
                self._rows[sample.id] = sample
        self._by_image = {sample.image_sha256: sample for sample in self._rows.values()}
        self._taken = {id_.casefold() for id_ in self._rows}  # two ids must be two files on any system

    def take(self, raw: RawSample, result: Converted | UserError) -> None:
        """Merge one image of the batch, or reject it with the reason."""
        if factory.is_named(self._withdrawn, raw.id, raw.image.name):
            self._reject(raw, f"is listed in {factory.WITHDRAWN}", counts=False)
        elif isinstance(result, UserError):
            self._reject(raw, without_root(self._root, str(result)))
        elif result.sample.image_sha256 in self._batch:
            file, sha256 = self._batch[result.sample.image_sha256]
            same = sha256 == result.sample.sha256
            reason = f"is the same image as {file}{'' if same else ', and their masks differ'}"
            self._reject(raw, reason, counts=not same)
        else:
            self._batch[result.sample.image_sha256] = raw.image.name, result.sample.sha256
            self._accept(raw, result)

    def finish(self) -> tuple[Sample, ...]:
        """Copy what stays of the previous dataset, and return all rows by id."""
        rows = tuple(self._rows[id_] for id_ in sorted(self._rows))
        for file in (file for sample in rows for file in (sample.image, sample.mask)):
            if self._before and not (self._out / file).exists():  # the batch's files are there already
                shutil.copyfile(self._before.root / file, self._out / file)
        return rows

    def _accept(self, raw: RawSample, converted: Converted) -> None:
        sample, measured = converted.sample, converted.measured
        previous = self._by_image.get(sample.image_sha256)
        if previous and previous.sha256 == sample.sha256:
            self.changes.unchanged.append(previous.id)
        elif previous:
            sample = replace(converted.renamed(previous.id), image=previous.image, group=previous.group)
            self._rows[previous.id] = sample
            (self._out / sample.mask).write_bytes(converted.mask)
            self.changes.relabelled.append(previous.id)
            self.pixels += measured.pixels - self._count(previous)
        else:
            # Where another image has the id, the image's hash follows it.
            ids = (sample.id, f"{sample.id}-{sample.image_sha256[:8]}", f"{sample.id}-{sample.image_sha256}")
            sample = converted.renamed(next(id_ for id_ in ids if id_.casefold() not in self._taken))
            if factory.is_named(self._withdrawn, sample.id, Path(sample.image).name):
                self._reject(raw, f"is listed in {factory.WITHDRAWN} as {sample.id}", counts=False)
            else:
                converted.store(sample, self._out)
                self._rows[sample.id] = sample
                self._taken.add(sample.id.casefold())
                self.changes.new.append(sample.id)
                self.pixels += measured.pixels
        self.overlaps += [measured.overlap] if measured.overlap else []
        self.brightest += [converted.brightest] if converted.brightest is not None else []

    def _reject(self, raw: RawSample, reason: str, *, counts: bool = True) -> None:
        image, *masks = (path.relative_to(self._root).as_posix() for path in (raw.image, *raw.mask_files))
        self.changes.rejected.append(Rejected(image, reason.removeprefix(image).lstrip(": "), counts))
        unused = f"its image, {image}, is not used"
        self.changes.rejected += [Rejected(mask, unused, counts=False) for mask in masks]

    def _count(self, sample: Sample) -> NDArray[np.int64]:
        """The pixels of each class in a mask of the previous dataset."""
        assert self._before is not None  # noqa: S101
        return count_classes(self._before.mask(sample), len(self.pixels), self._before.root / sample.mask)


def _load_previous(root: Path, classes: Sequence[str]) -> Dataset:
    previous = Dataset.load(root)
    if previous.card.name != factory.NAME:
        raise UserError(f"ingest.previous: {root} is {previous.card.name} and not own data; name another")
    names = [info.name for info in previous.card.classes[1:]]
    if names != list(classes):
        raise UserError(
            f"ingest.previous: {root} has the classes {', '.join(names)} and ingest.classes are "
            f"{', '.join(classes)}; they must be the same, in the same order"
        )
    return previous


def _require_few_rejected(changes: Changes, limit: float) -> None:
    lost = [item for item in changes.rejected if item.counts]
    images = len(lost) + len(changes.new) + len(changes.unchanged) + len(changes.relabelled)
    if len(lost) > limit * images:
        examples = "; ".join(f"{item.file}: {item.reason}" for item in lost[:3])
        raise UserError(
            f"{len(lost)} of {images} images cannot be used, a share above ingest.max_quarantine "
            f"({limit:g}; 1 lists all in {QUARANTINE_FILE}): {examples}{'; ...' if len(lost) > 3 else ''}"
        )


def _notes(labels: str, merge: _Merge, bit_depth: int, before: Dataset | None) -> tuple[str, ...]:
    """How the batch was read, and what it changed."""
    notes = [
        f"labels of the last batch: {labels}; where classes overlap the highest class id wins: "
        f"{sum(merge.overlaps)} pixels in {len(merge.overlaps)} images",
        "images are read as they are displayed, turned as EXIF says, and masks must be labelled so",
    ]
    if merge.brightest:
        notes.append(
            f"{len(merge.brightest)} images came with 16 bits, of which {bit_depth} are used (ingest.bit_depth) "
            f"and the upper 8 of those are kept; their highest value is {max(merge.brightest)}"
        )
    if unlabelled := sum(item.reason == factory.NO_MASK for item in merge.changes.rejected):
        notes.append(f"{unlabelled} images of the last batch have no mask and are left out")
    origin = f"grown from content {before.card.content_hash[:12]}" if before else "the first batch"
    return (*notes, f"{origin}: {merge.changes}")
