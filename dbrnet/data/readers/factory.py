"""A factory's own data: images in images/, and their labels in one of several forms, detected from the files.

    masks/<name>.png            class ids, 0 is the background
    masks/<class>/<name>.png    a folder for each class, at least one file; non-zero pixels are defect
    <any name>.csv              run-length encoded rows, see data/rle.py; no row: a defect-free image

withdrawn.txt is optional and lists images to leave out: ids of the previous dataset or file names.
"""

import re
import unicodedata
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import ClassVar

import numpy as np

from dbrnet.data.dataset import DatasetInfo
from dbrnet.data.image_decoding import read_class_ids, read_marked
from dbrnet.data.readers import PALETTE, RawMask, RawSample, find_layout, rle_mask, with_background
from dbrnet.data.rle import Row, read_table
from dbrnet.errors import UserError

NAME = "factory"
IMAGES, MASKS, WITHDRAWN = "images", "masks", "withdrawn.txt"
NO_MASK = "has no mask; a defect-free image needs an empty one"

_SHADES = (1.0, 0.65, 0.4)  # where there are more classes than colours
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
_LONGEST_ID = 100  # bytes; a file name may have 255


@dataclass(frozen=True)
class Rejected:
    """A file, or a row of the csv, that cannot be used, and why."""

    file: str  # relative to the source
    reason: str
    counts: bool = True  # as a lost image; one file of each counts


@dataclass(frozen=True)
class Listing:
    """The files of a source: each is a sample's, rejected, the labels' or withdrawn.txt. No image is opened yet."""

    labels: str  # how the labels came, in words
    samples: tuple[RawSample, ...]  # by id
    rejected: tuple[Rejected, ...]
    withdrawn: frozenset[str]  # the lines of withdrawn.txt


@dataclass(frozen=True)
class Source:
    """A batch: its images, and where its labels are looked for."""

    root: Path
    folder: Path  # holds images/, at `root` or below it
    classes: dict[str, int]  # the defects' names and ids
    images: dict[str, list[Path]]  # the plain files of images/ by `key`: more than one where names clash

    def name(self, path: Path) -> str:
        """The path as messages have it."""
        return path.relative_to(self.root).as_posix()

    def clash(self, key: str) -> str:
        """Why the images of `key` cannot be told apart; empty where there is one."""
        images = self.images.get(key, [])
        return f"{_join(images)} have one name but for case or suffix; rename one" if len(images) > 1 else ""


class LabelForm(ABC):
    """One form in which labels come. A new one is a subclass in a module of this package."""

    FORMS: ClassVar[list["LabelForm"]] = []
    description: ClassVar[str]  # for the card

    def __init_subclass__(cls) -> None:
        LabelForm.FORMS.append(cls())

    @abstractmethod
    def find(self, source: Source) -> list[Path]:
        """The files that hold labels of this form; empty where there are none."""

    @abstractmethod
    def pair(self, source: Source, files: Sequence[Path]) -> Iterator[RawSample | Rejected]:
        """Each image and each of `files`, as a sample or rejected."""


class IdMasks(LabelForm):
    """PNG masks of class ids."""

    description = "masks of class ids"

    def find(self, source: Source) -> list[Path]:
        """Those directly in masks/."""
        return _files(source.folder / MASKS)

    def pair(self, source: Source, files: Sequence[Path]) -> Iterator[RawSample | Rejected]:
        """By name, whatever its case."""
        masks_of: dict[str, list[Path]] = defaultdict(list)
        for path in files:
            masks_of[_key(path)].append(path)
        for key in sorted({*source.images, *masks_of}):
            images, masks = source.images.get(key, []), masks_of[key]
            if not images:
                reason = "is a mask without an image"
            elif not (reason := source.clash(key)) and not masks:
                reason = NO_MASK
            elif not reason and len({path.parent for path in masks}) < len(masks):
                reason = f"{_join(masks)} have one name but for case; remove one"
            if reason:
                for path in (paths := [*images, *masks]):
                    yield Rejected(source.name(path), reason, counts=path is paths[0])
            else:
                ids = [source.classes.get(path.parent.name, 0) for path in masks]
                yield _raw(images[0], partial(self.read, list(zip(ids, masks, strict=True))), masks)

    def read(self, masks: Sequence[tuple[int, Path]], height: int, width: int) -> RawMask:
        """The mask of one image from its files with their classes."""
        return RawMask(read_class_ids(masks[0][1]))


class ClassMasks(IdMasks):
    """PNG masks of one class each, in a folder of its name."""

    description = "a mask for each class"

    def find(self, source: Source) -> list[Path]:
        """Those in the folders of masks/, in the order of the classes' ids."""
        folder = source.folder / MASKS
        for path in sorted(folder.glob("*")):
            if path.is_dir() and path.name not in source.classes and not _is_system_file(path):
                names = ", ".join(source.classes)
                raise UserError(f"{MASKS}/{path.name} is no class; ingest.classes in params.yaml has {names}")
        return [file for name in source.classes for file in _files(folder / name)]

    def read(self, masks: Sequence[tuple[int, Path]], height: int, width: int) -> RawMask:
        """The highest class id wins where masks overlap, as in a csv (see data/rle.py)."""
        ids, claims = np.zeros((2, height, width), np.uint8)
        for class_id, path in masks:
            marked = read_marked(path)
            if marked.shape != ids.shape:
                shape = " x ".join(map(str, marked.shape))
                raise UserError(f"{path} is {shape} (height x width) and its image {height} x {width}")
            np.putmask(ids, marked, class_id)
            claims += marked
        return RawMask(ids, int((claims > 1).sum()))


class Table(LabelForm):
    """A csv of run-length encoded rows."""

    description = "run-length encoded rows; an image without a row is defect-free"

    def find(self, source: Source) -> list[Path]:
        """The csv file beside images/."""
        tables = [path for path in _files(source.folder) if path.suffix.lower() == ".csv"]
        if len(tables) > 1:
            raise UserError(f"has {tables[0].name} and {tables[1].name}; give the labels in one of them")
        return tables

    def pair(self, source: Source, files: Sequence[Path]) -> Iterator[RawSample | Rejected]:
        """By the images' file names; a row that is wrong rejects its image, or itself where there is none."""
        paths = [path for same_name in source.images.values() for path in same_name]
        rows_of: dict[str, dict[int, Row]] = {_normal(path.name): {} for path in paths}
        faults: dict[str, str] = {}  # file name of an image -> what is wrong with its rows
        names = list(source.classes)
        labels = {label: id_ for name, id_ in source.classes.items() for label in (str(id_), name)}
        missing: set[str] = set()
        for row in read_table(files[0], labels):
            image, place = _normal(row.image), source.name(Path(row.place))
            if image not in rows_of:
                reason = row.fault or f"there is no {IMAGES}/{row.image[:200]}"
                yield Rejected(place, reason, counts=not image or image not in missing)
                missing.add(image)
            elif row.fault:
                faults.setdefault(image, f"{place}: {row.fault}")
            elif row.class_id in rows_of[image]:
                faults.setdefault(image, f"{place}: class {names[row.class_id - 1]} has a row already")
            else:
                rows_of[image][row.class_id] = row
        for key, images in source.images.items():
            for path in images:
                name = _normal(path.name)
                if reason := source.clash(key) or faults.get(name, ""):
                    yield Rejected(source.name(path), reason, counts=path is images[0])
                else:
                    yield _raw(path, partial(rle_mask, rows_of[name]))


def dataset_info(classes: Sequence[str]) -> DatasetInfo:
    """The description of a factory's dataset; `classes` are its defects' names, ids from 1."""
    colors = [(round(r * s), round(g * s), round(b * s)) for s in _SHADES for r, g, b in PALETTE]
    return DatasetInfo(
        name=NAME,
        title="Own data",
        classes=with_background({name: colors[index % len(colors)] for index, name in enumerate(classes)}),
        licence="the user's own",
    )


def list_source(root: Path, classes: Sequence[str]) -> Listing:
    """Pair images with their labels under `root`, by name. Raises `UserError` where the layout is not clear."""
    only_withdraws = (root / WITHDRAWN).is_file() and not (root / IMAGES).exists()
    folder = root if only_withdraws else find_layout(root, (IMAGES,))
    images: dict[str, list[Path]] = defaultdict(list)
    for path in _files(folder / IMAGES):
        images[_key(path)].append(path)
    source = Source(root, folder, {name: id_ for id_, name in enumerate(classes, start=1)}, images)
    found = [(form, files) for form in LabelForm.FORMS if (files := form.find(source))]
    if len(found) > 1:
        first, second = (files[0].relative_to(folder).as_posix() for _, files in found[:2])
        raise UserError(f"has {first} and {second}; give the labels in one form")
    if images and not found:
        raise UserError(f"has {IMAGES}/ but no labels; give {MASKS}/ or a csv beside it")
    paired = [item for form, files in found for item in form.pair(source, files)]
    used = {path for same_name in images.values() for path in same_name}
    used.update((folder / WITHDRAWN, *(path for _, files in found for path in files)))
    samples = [item for item in paired if isinstance(item, RawSample)]
    return Listing(
        labels=found[0][0].description if found else "none",
        samples=tuple(sorted(samples, key=lambda sample: (sample.id, sample.image.name))),
        rejected=(*(item for item in paired if isinstance(item, Rejected)), *_unused_files(source, used)),
        withdrawn=_read_withdrawn(folder / WITHDRAWN),
    )


def identify(stem: str) -> str:
    """The id of an image whose file is called `stem`: letters, digits and ._- stay, the rest becomes _."""
    clean = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", stem))
    return clean.encode()[:_LONGEST_ID].decode(errors="ignore")


def is_named(names: frozenset[str], id_: str, file: str) -> bool:
    """Whether withdrawn.txt's `names` list the image `id_`, kept as `file`, by its id or by a file name."""
    if {id_, file} & names:
        return True
    return any(PurePath(name).suffix and identify(PurePath(name).stem) == id_ for name in names)


def _raw(image: Path, read_mask: Callable[[int, int], RawMask], masks: Sequence[Path] = ()) -> RawSample:
    id_ = identify(image.stem)
    return RawSample(id_, image, id_, read_mask, mask_files=tuple(masks))


def _files(folder: Path) -> list[Path]:
    """The plain files in `folder`, ascending, without those of operating systems and editors."""
    return sorted(path for path in folder.glob("*") if path.is_file() and not _is_system_file(path))


def _is_system_file(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES


def _key(path: Path) -> str:
    """Equal for files that would be one file on some systems, or that share a mask."""
    return _normal(path.stem).casefold()


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # an archive from a Mac has accents as characters of their own


def _join(paths: Sequence[Path]) -> str:
    return " and ".join(f"{path.parent.name}/{path.name}" for path in paths)


def _read_withdrawn(path: Path) -> frozenset[str]:
    if not path.is_file():
        return frozenset()
    try:
        names = (_normal(line.strip()) for line in path.read_text("utf-8-sig").splitlines())
        return frozenset(name for name in names if name and not name.startswith("#"))
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as such") from None


def _unused_files(source: Source, used: set[Path]) -> Iterator[Rejected]:
    """The files that belong to no sample. Those in images/ count as lost: they may be images.

    Links to folders are not followed but for images/ and masks/ themselves: a loop cannot trap this.
    """
    inside = source.folder / IMAGES
    links = [path for path in (inside, source.folder / MASKS) if path.is_symlink()]
    for path in (path for top in (source.root, *links) for path in top.rglob("*")):
        if path in used or path.is_dir():
            continue
        in_images = path.is_relative_to(inside)
        if any(map(_is_system_file, map(Path, path.relative_to(source.root).parts))):
            yield Rejected(source.name(path), "a file of a system's or an editor's", counts=False)
        elif path.is_file():
            reason = f"images lie in {IMAGES}/ itself" if in_images else "not part of the layout"
            yield Rejected(source.name(path), reason, counts=in_images)
        else:
            yield Rejected(source.name(path), "no plain file, or a link that leads nowhere", counts=in_images)
