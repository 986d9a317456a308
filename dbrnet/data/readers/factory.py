"""A factory's own data: images in images/, their labels in one of three layouts, detected from the files.

    masks/<name>.png            class ids, 0 is the background
    masks/<class>/<name>.png    a folder for each class, at least one file; non-zero pixels are defect
    <any name>.csv              run-length encoded rows, see data/rle.py; no row: a defect-free image

withdrawn.txt is optional and lists images to leave out: ids of the previous dataset or file names.
"""

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePath

import numpy as np

from dbrnet.data.dataset import ClassInfo, DatasetInfo
from dbrnet.data.image_decoding import read_class_ids, read_marked
from dbrnet.data.readers.reader import RawMask, RawSample, find_layout, rle_mask
from dbrnet.data.rle import BadRow, Row, read_table
from dbrnet.errors import UserError

NAME = "factory"
IMAGES, MASKS, WITHDRAWN = "images", "masks", "withdrawn.txt"
NO_MASK = "has no mask; a defect-free image needs an empty one"

_COLORS = (  # Okabe and Ito's, distinct for colour-blind readers too
    (230, 159, 0),
    (86, 180, 233),
    (213, 94, 0),
    (0, 158, 115),
    (204, 121, 167),
    (240, 228, 66),
    (0, 114, 178),
)
_SHADES = (1.0, 0.65, 0.4)  # where there are more classes than colours
_SYSTEM_FILES = {"thumbs.db", "desktop.ini", "__macosx"}
_LONGEST_ID = 100  # bytes; a file name may have 255

MaskFile = tuple[int, Path]  # class id and file of one mask; the id is 0 where the file holds class ids


@dataclass(frozen=True)
class Rejected:
    """A file, or a row of the csv, that cannot be used, and why."""

    file: str  # relative to the source
    reason: str
    counts: bool = True  # as a lost image; one file of each counts


@dataclass
class Listing:
    """The files of a source: each is a sample's, rejected, the csv or withdrawn.txt. None is opened yet."""

    labels: str  # how the labels came, in words
    samples: list[RawSample] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    withdrawn: tuple[str, ...] = ()  # the lines of withdrawn.txt


def dataset_info(classes: Sequence[str]) -> DatasetInfo:
    """The description of a factory's dataset; `classes` are its defects' names, ids from 1."""
    colors = [(round(r * s), round(g * s), round(b * s)) for s in _SHADES for r, g, b in _COLORS]
    infos = [ClassInfo(name, colors[index % len(colors)]) for index, name in enumerate(classes)]
    return DatasetInfo(
        name=NAME,
        title="Own data",
        classes=(ClassInfo("background", (0, 0, 0)), *infos),
        homepage="",
        citation="",
        licence="the user's own",
        group_rule="",
        leak_note="",
    )


def list_source(root: Path, classes: Sequence[str]) -> Listing:
    """Pair images with their labels under `root`, by name. Raises `UserError` where the layout is not clear."""
    only_withdraws = (root / WITHDRAWN).is_file() and not (root / IMAGES).exists()
    folder = root if only_withdraws else find_layout(root, (IMAGES,))
    images: dict[str, list[Path]] = defaultdict(list)
    for path in _files(folder / IMAGES):
        images[_key(path)].append(path)
    tables = [path for path in _files(folder) if path.suffix.lower() == ".csv"]
    mask_files = _mask_files(folder / MASKS, classes)
    if len(tables) > 1 or (tables and mask_files):
        places = " and ".join([*(path.name for path in tables), *([MASKS] if mask_files else [])])
        raise UserError(f"has {places}; give the labels in one of them")
    if tables:
        listing = _list_table(images, tables[0], root, classes)
    elif mask_files or not images:
        listing = _list_masks(images, mask_files, root)
    else:
        raise UserError(f"has {IMAGES}/ but no labels; give {MASKS}/ or a csv beside it")
    if (folder / WITHDRAWN).is_file():
        listing.withdrawn = _read_withdrawn(folder / WITHDRAWN)
    used = {path for sample in listing.samples for path in (sample.image, *sample.mask_files)}
    used |= {*tables, folder / WITHDRAWN}
    listing.rejected += _unused_files(root, folder, used, {item.file for item in listing.rejected})
    listing.samples.sort(key=lambda sample: (sample.id, sample.image.name))
    return listing


def identify(stem: str) -> str:
    """The id of an image whose file is called `stem`: letters, digits and ._- stay, the rest becomes _."""
    clean = re.sub(r"[^\w.-]+", "_", unicodedata.normalize("NFC", stem))
    return clean.encode()[:_LONGEST_ID].decode(errors="ignore")


def is_named(names: frozenset[str], id_: str, file: str) -> bool:
    """Whether withdrawn.txt's `names` list the image `id_`, kept as `file`, by its id or by a file name."""
    if {id_, file} & names:
        return True
    return any(PurePath(name).suffix and identify(PurePath(name).stem) == id_ for name in names)


def _list_masks(images: Mapping[str, list[Path]], masks: Sequence[MaskFile], root: Path) -> Listing:
    by_class = any(class_id for class_id, _ in masks)
    listing = Listing("a mask for each class" if by_class else "masks of class ids")
    masks_of: dict[str, list[MaskFile]] = defaultdict(list)
    for class_id, path in masks:
        masks_of[_key(path)].append((class_id, path))
    for key in sorted({*images, *masks_of}):
        same_name, own_masks = images.get(key, []), sorted(masks_of.get(key, []))
        mask_paths = [path for _, path in own_masks]
        if reason := _mismatch(same_name, own_masks):
            first, *others = [*same_name, *mask_paths]
            listing.rejected.append(Rejected(_name(first, root), reason))
            listing.rejected += [Rejected(_name(path, root), reason, counts=False) for path in others]
        else:
            read_mask = partial(_read_class_masks, own_masks) if by_class else partial(_read_id_mask, mask_paths[0])
            listing.samples.append(_raw(same_name[0], read_mask, mask_paths))
    return listing


def _mismatch(images: Sequence[Path], masks: Sequence[MaskFile]) -> str:
    """Why these files of one name are not a sample; empty where they are."""
    if not images:
        return "is a mask without an image"
    if len(images) > 1:
        return f"{_join(images)} have one name but for case or suffix; rename one"
    if not masks:
        return NO_MASK
    if len({class_id for class_id, _ in masks}) < len(masks):
        return f"{_join([path for _, path in masks])} have one name but for case; remove one"
    return ""


def _list_table(images: Mapping[str, list[Path]], table: Path, root: Path, classes: Sequence[str]) -> Listing:
    listing = Listing("run-length encoded rows; an image without a row is defect-free")
    rows_of: dict[str, dict[int, Row]] = defaultdict(dict)
    faults: dict[str, str] = {}  # file name of an image -> what is wrong with its rows
    names = {_normal(path.name) for same_name in images.values() for path in same_name}
    labels = {label: id_ for id_, name in enumerate(classes, start=1) for label in (str(id_), name)}
    missing: set[str] = set()
    for row in read_table(table, labels):
        image, place = _normal(row.image), _name(Path(row.place), root)
        if image not in names:
            reason = row.reason if isinstance(row, BadRow) else f"there is no {IMAGES}/{row.image[:200]}"
            listing.rejected.append(Rejected(place, reason, counts=not image or image not in missing))
            missing.add(image)
        elif isinstance(row, BadRow):
            faults.setdefault(image, f"{place}: {row.reason}")
        elif row.class_id in rows_of[image]:
            faults.setdefault(image, f"{place}: class {classes[row.class_id - 1]} has a row already")
        else:
            rows_of[image][row.class_id] = row
    for same_name in images.values():
        for path in same_name:
            name = _normal(path.name)
            if len(same_name) > 1:
                reason = f"{_join(same_name)} have one name but for case or suffix; rename one"
                listing.rejected.append(Rejected(_name(path, root), reason, counts=path is same_name[0]))
            elif name in faults:
                listing.rejected.append(Rejected(_name(path, root), faults[name]))
            else:
                listing.samples.append(_raw(path, partial(rle_mask, rows_of.get(name, {}))))
    return listing


def _raw(image: Path, read_mask: Callable[[int, int], RawMask], masks: Sequence[Path] = ()) -> RawSample:
    id_ = identify(image.stem)
    return RawSample(id_, image, id_, read_mask, mask_files=tuple(masks))


def _read_id_mask(path: Path, height: int, width: int) -> RawMask:
    return RawMask(read_class_ids(path))


def _read_class_masks(masks: Sequence[MaskFile], height: int, width: int) -> RawMask:
    """The highest class id wins where masks overlap, as in a csv (see data/rle.py)."""
    ids = np.zeros((height, width), np.uint8)
    claims = np.zeros((height, width), np.uint8)
    for class_id, path in masks:
        marked = read_marked(path)
        if marked.shape != ids.shape:
            shape = " x ".join(map(str, marked.shape))
            raise UserError(f"{path} is {shape} (height x width) and its image {height} x {width}")
        np.putmask(ids, marked, class_id)
        claims += marked
    return RawMask(ids, int((claims > 1).sum()))


def _mask_files(folder: Path, classes: Sequence[str]) -> list[MaskFile]:
    """The masks directly in `folder`, or those in its folders for each class."""
    if not folder.is_dir():
        return []
    direct = [(0, path) for path in _files(folder)]
    folders = sorted(path for path in folder.iterdir() if path.is_dir() and not _is_system_file(path))
    if direct and folders:
        raise UserError(
            f"{MASKS}/ holds files ({direct[0][1].name}) and folders ({folders[0].name}); give either masks "
            "of class ids or a folder for each class"
        )
    unknown = [path.name for path in folders if path.name not in classes]
    if unknown:
        raise UserError(f"{MASKS}/{unknown[0]} is no class; ingest.classes in params.yaml has {', '.join(classes)}")
    ids = {name: class_id for class_id, name in enumerate(classes, start=1)}
    return direct or [(ids[path.name], file) for path in folders for file in _files(path)]


def _files(folder: Path) -> list[Path]:
    """The plain files in `folder`, ascending, without those of operating systems and editors."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and not _is_system_file(path))


def _is_system_file(path: Path) -> bool:
    return path.name.startswith(".") or path.name.lower() in _SYSTEM_FILES


def _key(path: Path) -> str:
    """Equal for files that would be one file on some systems, or that share a mask."""
    return _normal(path.stem).casefold()


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # an archive from a Mac has accents as characters of their own


def _join(paths: Sequence[Path]) -> str:
    return " and ".join(f"{path.parent.name}/{path.name}" for path in paths)


def _name(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _read_withdrawn(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8 text; save it as such") from None
    names = (_normal(line.strip()) for line in lines)
    return tuple(sorted({name for name in names if name and not name.startswith("#")}))


def _unused_files(root: Path, folder: Path, used: set[Path], rejected: set[str]) -> Iterator[Rejected]:
    """The files that belong to no sample. Those in images/ count as lost: they may be images."""
    for path in _walk(root, [folder / IMAGES, folder / MASKS]):
        name = _name(path, root)
        if path in used or name in rejected:
            continue
        in_images = path.is_relative_to(folder / IMAGES)
        if any(map(_is_system_file, map(Path, path.relative_to(root).parts))):
            yield Rejected(name, "a file of a system's or an editor's", counts=False)
        elif path.is_file():
            reason = f"images lie in {IMAGES}/ itself" if in_images else "not part of the layout"
            yield Rejected(name, reason, counts=in_images)
        else:
            yield Rejected(name, "no plain file, or a link that leads nowhere", counts=in_images)


def _walk(root: Path, links: Sequence[Path]) -> Iterator[Path]:
    """All files under `root`, ascending. Only `links` are followed among links to folders: a loop cannot trap it."""
    for top in (root, *(path for path in links if path.is_symlink())):
        for place, folders, files in os.walk(top):
            folders.sort()
            yield from (Path(place, name) for name in sorted(files))
