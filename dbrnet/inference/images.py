"""The images that a user names by files, folders, globs and S3 addresses, and their pixels."""

import glob
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import cast

import cv2
import numpy as np

from dbrnet.data.dataset import Image
from dbrnet.data.image_decoding import declared_size, decode_any, keep_upper_bits
from dbrnet.errors import UserError
from dbrnet.progress import progress

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".mkv", ".mov", ".mp4", ".webm"})
SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES  # .gif too: it is refused with an error instead of passed over
MAX_PIXELS = 2**26  # prediction takes about 100 bytes of memory per pixel: 7 GB for the largest image
FEWEST_GREYS = 16


@dataclass(frozen=True)
class Source:
    """One image or video file."""

    place: str  # as the user finds it: a path or an s3:// address
    path: Path  # where its bytes are
    name: str  # its path below the folder that the user named; no two sources share it
    output: str  # `name` without an image's suffix; no two sources share that either

    @property
    def is_video(self) -> bool:
        """Whether it is a video by its name."""
        return Path(self.name).suffix.lower() in VIDEO_SUFFIXES


def find_sources(words: Iterable[str], scratch: Path, leave_out: Sequence[Path] = ()) -> list[Source]:
    """Every image and video that `words` name, sorted by name, whatever the order of `words`.

    A folder, a glob (`**` goes into folders) and an S3 prefix stand for all files below them whose suffix is one of
    SUFFIXES, except hidden files and those in the folders `leave_out`. Objects in S3 are fetched into `scratch`.
    Where two names are equal, the later one is numbered. Raises `UserError` for a word without an image or video.
    """
    sources: dict[str, Source] = {}
    for number, word in enumerate(words):
        for source in _follow(word, scratch / str(number), leave_out):
            known = sources.setdefault(source.place, source)
            sources[source.place] = min(known, source, key=lambda source: source.name)
    if not sources:
        raise UserError("no image to predict; name image files, folders, globs or s3:// addresses")
    ordered = sorted(sources.values(), key=lambda source: (source.name, source.place))
    names = _numbered([PurePosixPath(source.name) for source in ordered])
    outputs = _numbered([name if name.suffix.lower() in VIDEO_SUFFIXES else name.with_suffix("") for name in names])
    return [
        replace(source, name=str(name), output=str(output))
        for source, name, output in zip(ordered, names, outputs, strict=True)
    ]


def _follow(word: str, scratch: Path, leave_out: Sequence[Path]) -> list[Source]:
    """The files that one word stands for, not yet numbered."""
    path = Path(word)
    if word.startswith("s3://"):
        sources = _fetch(word, scratch)
    elif path.is_dir():
        sources = _below(path, [path], leave_out)
    elif path.exists():
        return [_source(path, path.parent)]
    elif glob.has_magic(word):
        wild = next(index for index, part in enumerate(path.parts) if glob.has_magic(part))
        fixed, pattern = Path(*path.parts[:wild]), str(Path(*path.parts[wild:]))
        try:
            sources = _below(fixed, fixed.glob(pattern), leave_out)
        except ValueError as error:
            raise UserError(f"{word}: not a glob ({error})") from None
    else:
        raise UserError(f"{word}: there is no such file or folder")
    if not sources:
        raise UserError(f"{word}: no image or video there (looked for {', '.join(sorted(SUFFIXES))})")
    return sources


def _source(file: Path, folder: Path) -> Source:
    return Source(str(file), file, str(file.relative_to(folder)), "")


def _below(root: Path, found: Iterable[Path], leave_out: Sequence[Path]) -> list[Source]:
    """The images and videos among `found`, and in the folders among them; links to folders are not followed."""
    left_out = [path.resolve() for path in leave_out]
    files: set[Path] = set()
    for path in found:
        for file in path.rglob("*") if path.is_dir() else [path]:
            shown = not any(part.startswith(".") for part in file.relative_to(root).parts)
            if shown and file.suffix.lower() in SUFFIXES and not file.is_dir():
                folder = file.parent.resolve()
                files.update([file] if not any(map(folder.is_relative_to, left_out)) else [])
    return [_source(file, root) for file in files]


def _fetch(address: str, scratch: Path) -> list[Source]:
    from dbrnet.storage.s3 import fetch_s3  # boto3 takes a while, and few images need it

    fetched = fetch_s3(address, scratch, progress=progress)
    if fetched.is_file():
        return [Source(address, fetched, PurePosixPath(address).name, "")]
    prefix = address.rstrip("/")
    return [replace(source, place=f"{prefix}/{source.name}") for source in _below(fetched, [fetched], ())]


def _numbered(names: Sequence[PurePosixPath]) -> list[PurePosixPath]:
    """`names`, with a number on those that occurred before: x.png, x-2.png."""
    given, used = set(names), set[PurePosixPath]()
    result = []
    for name in names:
        free, number = name, 2
        while free in used or (free != name and free in given):
            free, number = name.with_name(f"{name.stem}-{number}{name.suffix}"), number + 1
        used.add(free)
        result.append(free)
    return result


def decode_image(data: bytes, name: str, bit_depth: int = 16, max_pixels: int = MAX_PIXELS) -> Image:
    """RGB uint8 [H, W, 3] of a JPEG, PNG, TIFF (one page), BMP or WebP file, rotated as EXIF says.

    The values of a 16-bit image are below 2**`bit_depth`, and the upper 8 of those bits are kept, as in ingestion.
    Raises `UserError` that begins with `name` for every other kind, for a broken image, for one that declares more
    pixels than `max_pixels`, and where a wrong `bit_depth` would leave fewer than 16 greys.
    """
    if not data:
        raise UserError(f"{name}: the file is empty (0 bytes); fetch it again or remove it")
    if data.startswith(b"GIF8"):
        raise UserError(f"{name}: GIF is not read (256 colours are not what a camera saw); save it as PNG")
    height, width = declared_size(data, name)
    if height * width > max_pixels:
        raise UserError(
            f"{name}: declares {height}x{width} pixels; at most {max_pixels} are predicted at once: cut it into tiles"
        )
    pixels = decode_any(data, name)
    if pixels.dtype == np.uint8:
        return cast(Image, pixels)
    used = int(pixels.max()).bit_length()
    if used > bit_depth:
        raise UserError(f"{name}: uses {used} bits, and the bit depth given is {bit_depth}; raise that")
    if 0 < used <= bit_depth - (FEWEST_GREYS - 1).bit_length():
        raise UserError(
            f"{name}: uses {used} of {bit_depth} bits, so hardly a grey would be left of it; "
            "give the camera's own bit depth"
        )
    return keep_upper_bits(pixels, bit_depth)


def declared_frames(path: Path) -> int:
    """The number of frames that a video file declares; 0 where it declares none or cannot be read."""
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    frames = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    capture.release()
    return max(0, frames)


def read_frames(path: Path, name: str) -> Iterator[Image]:
    """Each frame of a video file in order, as RGB uint8 [H, W, 3], rotated as the file says.

    Raises `UserError` that begins with `name` where the file is no video. The same is raised after the last frame
    where fewer came than the file declares, because the decoder skips damaged frames silently.
    """
    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        if not capture.isOpened():
            raise UserError(f"{name}: not a readable video (truncated, or of another kind)")
        declared, read = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0
        while (frame := capture.read()[1]) is not None:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
            read += 1
    finally:
        capture.release()
    if read < declared or not read:
        raise UserError(
            f"{name}: only {read} of the {declared} frames declared can be read; it is damaged or cut short"
        )
