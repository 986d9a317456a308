"""Which images the user means by files, folders, globs and S3 addresses: each once, in one order."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dbrnet.errors import UserError
from dbrnet.inference.video import VIDEO_SUFFIXES
from dbrnet.progress import progress
from dbrnet.storage.s3 import fetch_s3

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES  # .gif too: it is refused by name, and not passed over


@dataclass(frozen=True)
class Source:
    """One image or video file."""

    place: str  # as a person finds it: a path or an s3:// address
    path: Path  # where its bytes are
    name: str  # its path below the folder that was asked for; no two sources share it
    output: str  # `name` without its suffix; no two sources share that either

    @property
    def is_video(self) -> bool:
        """Whether it is a video by its name."""
        return PurePosixPath(self.name).suffix.lower() in VIDEO_SUFFIXES


def find_sources(words: Iterable[str], scratch: Path, leave_out: Sequence[Path] = ()) -> list[Source]:
    """Every image and video that `words` name, in the order of their names, whatever order `words` have.

    A folder, a glob (`**` goes into folders) and an S3 prefix stand for all files below them whose suffix is
    one of SUFFIXES, but for hidden ones and those in the folders `leave_out`; what is in S3 is fetched into
    `scratch`. Where two names are equal, the later in order is numbered. Raises `UserError` for a word that
    leads to nothing.
    """
    found: dict[str, _Found] = {}
    for number, word in enumerate(words):
        for one in _follow(word, scratch / str(number), leave_out):
            known = found.setdefault(one.place, one)
            found[one.place] = min(known, one, key=lambda found: found.name)
    if not found:
        raise UserError("no image to predict; name image files, folders, globs or s3:// addresses")
    ordered_map = sorted(found.values(), key=lambda one: (one.name, one.place))
    names = _apart([PurePosixPath(one.name) for one in ordered_map])
    outputs = _apart([name if _is_video(name) else name.with_suffix("") for name in names])
    return [
        Source(one.place, one.path, str(name), str(output))
        for one, name, output in zip(ordered_map, names, outputs, strict=True)
    ]


@dataclass(frozen=True)
class _Found:
    place: str
    path: Path
    name: str


def _follow(word: str, scratch: Path, leave_out: Sequence[Path]) -> list[_Found]:
    if word.startswith("s3://"):
        found = _fetch(word, scratch)
    elif (path := Path(word)).is_dir():
        found = [_Found(str(file), file, str(file.relative_to(path))) for file in _below(path, leave_out)]
    elif path.exists():
        return [_Found(str(path), path, path.name)]
    elif glob.has_magic(word):
        found = _match(word, leave_out)
    else:
        raise UserError(f"{word}: there is no such file or folder")
    if not found:
        raise UserError(f"{word}: no image or video there (looked for {', '.join(sorted(SUFFIXES))})")
    return found


def _below(folder: Path, leave_out: Sequence[Path]) -> Iterator[Path]:
    """The images and videos in `folder` and its folders; links to folders are not followed."""
    left_out = {path.resolve() for path in leave_out}
    for root, folders, files in os.walk(folder):
        shown = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in shown if Path(root, name).resolve() not in left_out]
        yield from (Path(root, name) for name in files if _is_wanted(name))


def _match(word: str, leave_out: Sequence[Path]) -> list[_Found]:
    """What a glob stands for, named below the last folder before its first wildcard."""
    parts = Path(word).parts
    wild = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    fixed, pattern = Path(*parts[:wild]), str(Path(*parts[wild:]))
    left_out = [path.resolve() for path in leave_out]
    files: set[Path] = set()
    try:
        for path in fixed.glob(pattern):
            if any(part.startswith(".") for part in path.relative_to(fixed).parts):
                continue
            if any(path.resolve().is_relative_to(folder) for folder in left_out):
                continue
            files.update(_below(path, leave_out) if path.is_dir() else [path] if _is_wanted(path.name) else [])
    except ValueError as error:
        raise UserError(f"{word}: not a glob ({error})") from None
    return [_Found(str(file), file, str(file.relative_to(fixed))) for file in files]


def _fetch(address: str, scratch: Path) -> list[_Found]:
    fetched = fetch_s3(address, scratch, progress=progress)
    if fetched.is_file():
        return [_Found(address, fetched, PurePosixPath(address).name)]
    prefix = address.rstrip("/")
    names = {str(file.relative_to(fetched)): file for file in _below(fetched, ())}
    return [_Found(f"{prefix}/{name}", file, name) for name, file in names.items()]


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in SUFFIXES


def _is_video(name: PurePosixPath) -> bool:
    return name.suffix.lower() in VIDEO_SUFFIXES


def _apart(names: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """`names`, of which those that came before are numbered: x.png, x-2.png."""
    given, used = set(names), set[PurePosixPath]()
    result = []
    for name in names:
        free, number = name, 2
        while free in used or (free != name and free in given):
            free, number = name.with_name(f"{name.stem}-{number}{name.suffix}"), number + 1
        used.add(free)
        result.append(free)
    return result
