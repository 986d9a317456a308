"""The canonical dataset on disk, which every reader writes and every later step reads.

card.json       name, classes with colours, sizes, counts, pixel shares, source, licence note, content hash
samples.csv     one row an image: id, files, size, classes present, group, content hash,
                the split in which it was published
images/         the images, 8-bit JPEG or PNG, with the very bytes they came in where they were such
masks/<id>.png  single-channel 8-bit class ids; 0 is the background
"""

import csv
import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.errors import UserError
from dbrnet.files import read_json, write_atomically, write_json

Image = NDArray[np.uint8]  # [H, W, 3], RGB
Mask = NDArray[np.uint8]  # [H, W], class ids

CARD_FILE = "card.json"
SAMPLES_FILE = "samples.csv"
LINK_FILE = "link.json"  # in a folder whose images lie elsewhere: see linked.py


@dataclass(frozen=True)
class ClassInfo:
    """One class: its id is its place in the card's list; id 0 is always the background."""

    name: str
    color: tuple[int, int, int]  # RGB, for overlays and plots


@dataclass(frozen=True)
class Sample:
    """One image with its mask. `image` and `mask` are paths relative to the dataset's root."""

    id: str
    image: str
    mask: str
    height: int
    width: int
    classes: tuple[int, ...]  # defect ids present, ascending; empty: defect-free
    group: str  # images of the same thing share a group; splits of a split must not share groups
    sha256: str  # of the image's decoded pixels and its mask's
    image_sha256: str = ""  # of the image's alone; empty in datasets written before it was kept
    published: str = ""  # the split in which it was published, train or test; empty: none


@dataclass(frozen=True)
class About:
    """What is known of a dataset before it is read."""

    name: str
    title: str
    classes: tuple[ClassInfo, ...]
    homepage: str
    citation: str
    licence: str
    group_rule: str  # how groups were found, in words; empty: no grouping is known, each image its own
    leak_note: str  # what is known of near-copies that the groups do not cover; empty: nothing


@dataclass(frozen=True)
class Card(About):
    """What one must know of a dataset before trusting a number measured on it."""

    notes: tuple[str, ...]  # what the reader decided or noticed (thresholds, overlaps, empty masks)
    images: int
    groups: int
    images_by_class: dict[str, int]  # class name -> images that hold it; the background's: defect-free ones
    pixel_shares: dict[str, float]  # class name -> share of all pixels
    content_hash: str  # of all samples' ids, groups and hashes: equal content, equal hash


@dataclass(frozen=True)
class Dataset:
    """A canonical dataset: its card, its samples, and their pixels on demand."""

    root: Path
    card: Card
    samples: tuple[Sample, ...]
    at_hand: ClassVar[bool] = True  # whether all images lie here

    @classmethod
    def load(cls, root: Path) -> "Dataset":
        """Read the card and the table under `root`; raises `UserError` where one is missing or broken."""
        if (root / LINK_FILE).exists():
            from dbrnet.data.remote_dataset import RemoteDataset  # which brings boto3

            cls = RemoteDataset
        raw = read_json(root / CARD_FILE)
        try:
            classes = tuple(ClassInfo(item["name"], tuple(item["color"])) for item in raw.pop("classes"))
            card = Card(classes=classes, notes=tuple(raw.pop("notes")), **raw)
            samples = _parse_samples((root / SAMPLES_FILE).read_text())
        except FileNotFoundError:
            raise UserError(f"{root / SAMPLES_FILE} does not exist; run `dbrnet ingest` again") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{root} is not a dataset this version reads ({error}); ingest it again") from None
        return cls(root, card, samples)

    def save_tables(self) -> None:
        """Write card and table; the images and masks are already in place."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(field.name for field in fields(Sample))
        for sample in self.samples:
            row: dict[str, Any] = asdict(sample) | {"classes": " ".join(map(str, sample.classes))}
            writer.writerow(row.values())
        write_atomically(self.root / SAMPLES_FILE, text.getvalue())
        write_json(self.root / CARD_FILE, asdict(self.card))

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """The samples by their ids."""
        return {sample.id: sample for sample in self.samples}

    def regrouped(self, groups: Mapping[str, str]) -> Self:
        """The dataset with `groups` (id -> group) in place of those that names alone gave."""
        samples = (replace(sample, group=groups[sample.id]) for sample in self.samples)
        return replace(self, samples=tuple(samples))

    @property
    def published_splits(self) -> dict[str, list[str]]:
        """The ids by the split in which they were published; empty where that was not in splits."""
        splits: dict[str, list[str]] = {}
        for sample in self.samples:
            if sample.published:
                splits.setdefault(sample.published, []).append(sample.id)
        return splits

    def image(self, sample: Sample) -> Image:
        """The image as RGB, uint8, [H, W, 3]."""
        return decode_image((self.root / sample.image).read_bytes(), self.root / sample.image)

    def mask(self, sample: Sample) -> Mask:
        """The class ids, uint8, [H, W]."""
        return decode_grey((self.root / sample.mask).read_bytes(), self.root / sample.mask)

    def pair(self, sample: Sample) -> tuple[Image, Mask]:
        """The image and its mask."""
        return self.image(sample), self.mask(sample)

    def prefetch(self, samples: Iterable[Sample]) -> None:
        """Be told what will be read next, in this order. Here all is at hand."""


def decode_image(data: bytes, name: Path | str) -> Image:
    """Decode JPEG or PNG bytes to RGB [H, W, 3]; a broken one is a `UserError` that names it."""
    pixels = decode_pixels(data, name, cv2.IMREAD_COLOR)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def decode_grey(data: bytes, name: Path | str) -> Mask:
    """Decode a single-channel 8-bit image to [H, W], its values unchanged."""
    pixels = decode_pixels(data, name, cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise UserError(f"{name}: a mask must have one 8-bit channel, and this has shape {pixels.shape}")
    return pixels.astype(np.uint8, copy=False)


def decode_pixels(data: bytes, name: Path | str, flags: int) -> NDArray[Any]:
    """Decode to what OpenCV's `flags` ask for, channels in its order; `UserError` names a broken one."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        if "MAX_IMAGE" in str(error):
            raise UserError(f"{name}: declares more pixels than are read; cut it into tiles") from None
        pixels = None
    if pixels is None:
        raise UserError(f"{name}: not a readable image (truncated or not an image at all)")
    return pixels


def content_hash(samples: tuple[Sample, ...]) -> str:
    """One hash for a dataset's content: ids, groups and pixels, whatever order they came in."""
    digest = hashlib.sha256()
    for sample in sorted(samples, key=lambda sample: sample.id):
        digest.update(f"{sample.id}\0{sample.group}\0{sample.sha256}\n".encode())
    return digest.hexdigest()


def _parse_samples(text: str) -> tuple[Sample, ...]:
    return tuple(
        Sample(
            id=row["id"],
            image=row["image"],
            mask=row["mask"],
            height=int(row["height"]),
            width=int(row["width"]),
            classes=tuple(int(value) for value in row["classes"].split()),
            group=row["group"],
            sha256=row["sha256"],
            image_sha256=row.get("image_sha256", ""),
            published=row.get("published", ""),
        )
        for row in csv.DictReader(io.StringIO(text))
    )
