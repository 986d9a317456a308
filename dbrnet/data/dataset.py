"""The canonical dataset on disk: every reader writes it and every later step reads it.

card.json       name, classes with colours, counts, pixel shares, source, licence note, content hash
samples.csv     one row an image: id, files, size, classes present, group, hashes, published split
images/         8-bit JPEG or PNG; an image that came as such keeps its bytes
masks/<id>.png  single-channel 8-bit class ids; 0 is the background
"""

import csv
import hashlib
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from dbrnet.errors import UserError
from dbrnet.files import read_json, write_atomically, write_json

Image = NDArray[np.uint8]  # [H, W, 3], RGB
Mask = NDArray[np.uint8]  # [H, W], class ids

Text = Annotated[str, StringConstraints(min_length=1)]
Words = BeforeValidator(lambda value: value.split() if isinstance(value, str) else value)

CARD_FILE = "card.json"
SAMPLES_FILE = "samples.csv"
LINK_FILE = "link.json"  # marks a folder whose images lie in S3, see remote_dataset.py


@dataclass(frozen=True)
class ClassInfo:
    """One class. Its id is its place in the card's list; id 0 is always the background."""

    name: str
    color: tuple[int, int, int]  # RGB, for overlays and plots


@dataclass(frozen=True)
class Sample:
    """One image with its mask: a row of samples.csv. Paths are relative to the dataset's root."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    id: Text
    image: Text
    mask: Text
    height: int
    width: int
    classes: Annotated[tuple[int, ...], Words]  # defect ids present, ascending; empty: defect-free
    group: Text  # near-duplicates share a group, and a group must not cross splits
    sha256: Text  # of the decoded pixels of image and mask
    image_sha256: Text  # of the image's decoded pixels alone
    published: str = ""  # the split in which it was published, train or test; empty: none

    @property
    def strata(self) -> tuple[int, ...]:
        """The classes that the image counts for; a defect-free one counts for the background."""
        return self.classes or (0,)


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What is known of a dataset before it is read."""

    name: str
    title: str
    classes: tuple[ClassInfo, ...]
    homepage: str = ""
    citation: str = ""
    licence: str
    group_rule: str = ""  # how the reader found groups, in words; empty: each image is a group of its own
    leak_note: str = ""  # known near-duplicates that the groups do not cover; empty: none are known


@dataclass(frozen=True, kw_only=True)
class Card(DatasetInfo):
    """card.json: what a dataset holds, and what must be known before a score on it is trusted."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    notes: tuple[str, ...]  # what the reader decided or noticed (thresholds, overlaps, empty masks)
    images: int
    groups: int
    images_by_class: dict[str, int]  # class name -> images that hold it; background -> defect-free images
    pixel_shares: dict[str, float]  # class name -> share of all pixels
    content_hash: str  # see `content_hash`

    @classmethod
    def load(cls, root: Path) -> Self:
        """Read card.json under `root`; raises `UserError` where it is missing or broken."""
        try:
            return TypeAdapter(cls).validate_python(read_json(root / CARD_FILE))
        except ValidationError as error:
            raise _unreadable(root, CARD_FILE, error) from None


@dataclass(frozen=True)
class Dataset:
    """A canonical dataset: its card and its samples, whose pixels are read when asked for."""

    root: Path
    card: Card
    samples: tuple[Sample, ...]
    local: ClassVar[bool] = True  # whether all images lie in `root`

    @classmethod
    def load(cls, root: Path) -> Self:
        """Read card.json and samples.csv under `root`; raises `UserError` where one is missing or broken."""
        card, table = Card.load(root), root / SAMPLES_FILE
        try:
            rows = tuple(csv.DictReader(io.StringIO(table.read_text())))
            return cls(root, card, TypeAdapter(tuple[Sample, ...]).validate_python(rows))
        except FileNotFoundError:
            raise UserError(f"{table} does not exist; run `dbrnet ingest` again") from None
        except (ValueError, csv.Error) as error:
            raise _unreadable(root, SAMPLES_FILE, error) from None

    def save_tables(self) -> None:
        """Write card.json and samples.csv; images and masks are already in place."""
        rows = (asdict(sample) | {"classes": " ".join(map(str, sample.classes))} for sample in self.samples)
        write_table(self.root / SAMPLES_FILE, [field.name for field in fields(Sample)], (row.values() for row in rows))
        write_json(self.root / CARD_FILE, asdict(self.card))

    @cached_property
    def by_id(self) -> dict[str, Sample]:
        """The samples by their ids."""
        return {sample.id: sample for sample in self.samples}

    def named(self, ids: Iterable[str]) -> list[Sample]:
        """The samples of a split's `ids`, in their order; `UserError` for one that is not there."""
        try:
            return [self.by_id[id_] for id_ in ids]
        except KeyError as error:
            raise UserError(
                f"the split names {error.args[0]}, which the dataset does not hold; run `dbrnet split` again"
            ) from None

    def groups(self, ids: Iterable[str]) -> dict[str, str]:
        """Id -> group of near-duplicates, of a split's `ids`."""
        return {sample.id: sample.group for sample in self.named(ids)}

    def regrouped(self, groups: Mapping[str, str]) -> Self:
        """The dataset with `groups` (id -> group) in place of those that the reader found."""
        return replace(self, samples=tuple(replace(sample, group=groups[sample.id]) for sample in self.samples))

    @property
    def published_splits(self) -> dict[str, list[str]]:
        """Split -> ids, as the dataset was published; empty where it was published without splits."""
        splits: dict[str, list[str]] = {}
        for sample in self.samples:
            if sample.published:
                splits.setdefault(sample.published, []).append(sample.id)
        return splits

    def image(self, sample: Sample) -> Image:
        """The image as RGB, uint8 [H, W, 3]."""
        return decode_image((self.root / sample.image).read_bytes(), self.root / sample.image)

    def mask(self, sample: Sample) -> Mask:
        """The class ids, uint8 [H, W]."""
        return decode_grey((self.root / sample.mask).read_bytes(), self.root / sample.mask)

    def pair(self, sample: Sample) -> tuple[Image, Mask]:
        """The image and its mask."""
        return self.image(sample), self.mask(sample)

    def prefetch(self, samples: Iterable[Sample]) -> None:
        """Announce which samples will be read next, in this order; a local dataset has nothing to fetch."""


def decode_image(data: bytes, name: Path | str) -> Image:
    """Decode JPEG or PNG bytes to RGB [H, W, 3]; raises `UserError` that names a broken one."""
    pixels = decode_pixels(data, name, cv2.IMREAD_COLOR)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


def decode_grey(data: bytes, name: Path | str) -> Mask:
    """Decode a single-channel 8-bit image to [H, W], its values unchanged; raises as `decode_image`."""
    pixels = decode_pixels(data, name, cv2.IMREAD_UNCHANGED)
    if pixels.ndim != 2 or pixels.dtype != np.uint8:
        raise UserError(f"{name}: a mask must have one 8-bit channel, and this has shape {pixels.shape}")
    return pixels.astype(np.uint8, copy=False)


def decode_pixels(data: bytes, name: Path | str, flags: int) -> NDArray[Any]:
    """Decode as OpenCV's `flags` say, channels in its order (BGR); raises as `decode_image`."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    except cv2.error as error:
        if "MAX_IMAGE" in str(error):
            raise UserError(f"{name}: declares more pixels than are read; cut it into tiles") from None
        pixels = None
    if pixels is None:
        raise UserError(f"{name}: not a readable image (truncated or not an image at all)")
    return pixels


def count_by_class(samples: Sequence[Sample], classes: Sequence[ClassInfo]) -> dict[str, int]:
    """How many of the images hold each class; the background's are the defect-free ones."""
    held = Counter(label for sample in samples for label in sample.strata)
    return {info.name: held[label] for label, info in enumerate(classes)}


def content_hash(samples: Iterable[Sample]) -> str:
    """One SHA-256 for a dataset's content: ids, groups and pixels, in whatever order they come."""
    digest = hashlib.sha256()
    for sample in sorted(samples, key=lambda sample: sample.id):
        digest.update(f"{sample.id}\0{sample.group}\0{sample.sha256}\n".encode())
    return digest.hexdigest()


def pixel_hashes(image: Image, mask: Mask) -> tuple[str, str]:
    """`image_sha256` and `sha256` of a sample: of the pixels [H, W, 3], and of these with the mask's [H, W].

    An image that is saved again without loss keeps its hash.
    """
    digest = hashlib.sha256(f"{image.shape[0]} {image.shape[1]}\n".encode())
    digest.update(np.ascontiguousarray(image).data)
    image_sha256 = digest.hexdigest()
    digest.update(np.ascontiguousarray(mask).data)
    return image_sha256, digest.hexdigest()


def image_hash(image: Image) -> str:
    """`image_sha256` of the pixels [H, W, 3]."""
    return pixel_hashes(image, np.empty((0, 0), np.uint8))[0]


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    """Write a csv file atomically: the same bytes on every system."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    write_atomically(path, text.getvalue())


def describe_fault(error: Exception) -> str:
    """What is wrong in a table or record that does not parse, in a few words."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def _unreadable(root: Path, name: str, error: Exception) -> UserError:
    reason = describe_fault(error)
    return UserError(f"{root} is not a dataset this version reads ({name}: {reason}); ingest it again")
