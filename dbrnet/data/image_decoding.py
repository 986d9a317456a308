"""Reading images and masks: only whole files of known formats, turned as they are displayed, in 8 bits.

OpenCV decodes, but it fills what is missing of a file and takes the first of several images without a word.
The checks here refuse such files. Pillow reads headers and palettes alone.
"""

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import TiffImagePlugin

from dbrnet.data.dataset import Image, Mask, decode_grey, decode_pixels
from dbrnet.errors import UserError

_JPEG, _PNG, _BMP = b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"BM"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_STRIPS, _TILES = (273, 279), (324, 325)  # TIFF tags: offsets and byte counts
_BITS, _PHOTOMETRIC, _MIN_IS_WHITE, _LAB = 258, 262, 0, 8
_WEBP_ANIMATED = 2  # a flag of its extended header
_PALETTE = b"\3"  # a PNG's colour type

warnings.filterwarnings("ignore", module="PIL")  # a damaged file is reported once, by our own error


@dataclass(frozen=True)
class DecodedImage:
    """One image. `decode_image` returns `pixels` for `data`."""

    data: bytes  # the file that the canonical dataset keeps
    suffix: str
    pixels: Image
    brightest: int | None = None  # the highest value of a 16-bit image, before its reduction to 8 bits


def read_any(path: Path, bit_depth: int) -> DecodedImage:
    """A file of any format that `decode_any` reads, as the canonical dataset keeps it.

    8-bit JPEG and PNG files keep their bytes; the others become PNG, turned as their EXIF orientation says.
    16-bit images, whose values must be below 2**`bit_depth`, are reduced by `keep_upper_bits`. Raises
    `UserError` that names the file.
    """
    data = path.read_bytes()
    decoded, brightest = decode_any(data, path), None
    if decoded.dtype == np.uint16:
        brightest = int(decoded.max())
        if brightest >> bit_depth:
            raise UserError(f"{path} holds the value {brightest}, and ingest.bit_depth is {bit_depth}; raise that")
        decoded = keep_upper_bits(decoded, bit_depth)
    pixels = cast(Image, decoded)
    if brightest is not None or not data.startswith((_JPEG, _PNG)):
        red, green, blue = cv2.split(pixels)
        is_grey = np.array_equal(blue, green) and np.array_equal(green, red)
        data = cv2.imencode(".png", red if is_grey else cv2.merge([blue, green, red]))[1].tobytes()
    return DecodedImage(data, ".jpg" if data.startswith(_JPEG) else ".png", pixels, brightest)


def decode_any(data: bytes, name: Path | str) -> NDArray[Any]:
    """The bytes of a JPEG, PNG, TIFF, BMP or WebP file as RGB [H, W, 3], uint8 or uint16.

    The image is turned as its EXIF orientation says. Grey, palette and CMYK images become RGB by the plain
    formula, without colour profiles; alpha is dropped. Raises `UserError` that begins with `name`, also for
    an animation and for several pages.
    """
    if data.startswith((_JPEG, _PNG)):
        _require_whole(data, name)
    elif data.startswith(_TIFF):
        _require_one_whole_page(data, name)
    elif not (data.startswith(_BMP) or _is_webp(data)):
        raise UserError(f"{name} is not a JPEG, PNG, TIFF, BMP or WebP file; replace it or remove it")
    animated_png = data.startswith(_PNG) and b"acTL" in data[: max(0, data.find(b"IDAT"))]
    animated_webp = _is_webp(data) and data[12:16] == b"VP8X" and bool(data[20] & _WEBP_ANIMATED)
    if animated_png or animated_webp:  # the decoder would silently take the first image
        raise UserError(f"{name} is an animation; save each of its images as a file of its own")
    pixels = decode_pixels(data, name, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{name} has {pixels.dtype} pixels; save it with 8 or 16 bits")
    return cast(NDArray[Any], cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def keep_upper_bits(pixels: NDArray[np.uint16], bit_depth: int) -> Image:
    """The upper 8 of the `bit_depth` bits in use. The rule is fixed: one value is one grey in every image."""
    return (pixels >> (bit_depth - 8)).astype(np.uint8)


def declared_size(data: bytes, name: Path | str) -> tuple[int, int]:
    """Height and width in the file's header, without decoding a pixel; raises `UserError` that names the file."""
    try:
        width, height = Pillow.open(io.BytesIO(data), formats=["JPEG", "PNG", "TIFF", "BMP", "WEBP"]).size
    except Pillow.DecompressionBombError:
        raise UserError(f"{name}: declares more pixels than are read; cut it into tiles") from None
    except Exception:  # whatever a damaged header makes of the parser
        raise UserError(f"{name}: not a readable image (truncated or not an image at all)") from None
    return height, width


def read_class_ids(path: Path) -> Mask:
    """A PNG mask [H, W] of class ids: one 8-bit channel, or a palette whose indices are the ids."""
    data = read_png(path)
    if data[25:26] != _PALETTE:
        return decode_grey(data, path)
    decode_pixels(data, path, cv2.IMREAD_UNCHANGED)  # checks the declared size and each chunk's checksum
    try:
        return np.array(Pillow.open(io.BytesIO(data), formats=["PNG"]), np.uint8)
    except (OSError, ValueError, SyntaxError):
        raise UserError(f"{path}: its palette cannot be read; save it with one 8-bit channel") from None


def read_marked(path: Path) -> NDArray[np.bool_]:
    """A PNG mask [H, W] of one class: where any channel but alpha is not 0, at any bit depth."""
    pixels = decode_pixels(read_png(path), path, cv2.IMREAD_UNCHANGED)
    levels = pixels if pixels.ndim == 2 else pixels[:, :, :3].max(axis=2)
    return np.asarray(levels > 0)


def read_png(path: Path) -> bytes:
    """The bytes of a PNG file, checked to be complete; raises `UserError` for another format."""
    data = path.read_bytes()
    if not data.startswith(_PNG):
        raise UserError(f"{path} is not a PNG file; masks must be, since JPEG changes their values")
    _require_whole(data, path)
    return data


def read_whole(path: Path) -> bytes:
    """The bytes of a JPEG or PNG file, checked to be complete; raises `UserError` that names the file."""
    data = path.read_bytes()
    if not data.startswith((_JPEG, _PNG)):
        raise UserError(f"{path} is not a JPEG or PNG file; replace it or remove it")
    _require_whole(data, path)
    return data


def _require_whole(data: bytes, name: Path | str) -> None:
    """The decoder fills what is missing of a JPEG with grey, silently, so its end is looked for here."""
    whole = _jpeg_has_end(data) if data.startswith(_JPEG) else b"IEND\xaeB`\x82" in data[-64:]
    if not whole:
        raise UserError(f"{name} is cut short; fetch it again or remove it")


def _is_webp(data: bytes) -> bool:
    return data.startswith(b"RIFF") and data[8:12] == b"WEBP"


def _jpeg_has_end(data: bytes) -> bool:
    """Whether an end marker follows the first scan; one before it may be an embedded thumbnail's."""
    position = 2
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        if data[position + 1] == 0xDA:  # start of scan; inside a scan FF D9 can only be the end
            return data.find(b"\xff\xd9", position) >= 0
        if data[position + 1] == 0xFF:  # padding
            position += 1
        else:
            position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _require_one_whole_page(data: bytes, name: Path | str) -> None:
    """The decoder fills what is missing of a TIFF with black, and takes the first of several pages.

    It also converts CIELab wrongly, and 16-bit greys that count from white.
    """
    try:
        opened = cast(TiffImagePlugin.TiffImageFile, Pillow.open(io.BytesIO(data), formats=["TIFF"]))
        pages, tags = opened.n_frames, opened.tag_v2
        colors, bits = tags.get(_PHOTOMETRIC), tags.get(_BITS, (1,))[0]
        ends = [
            offset + count
            for offsets, counts in (_STRIPS, _TILES)
            for offset, count in zip(tags.get(offsets) or (), tags.get(counts) or (), strict=True)
        ]
    except Exception:  # whatever a damaged header makes of the parser
        raise UserError(f"{name}: not a readable image (its TIFF header is broken or absurd)") from None
    if pages != 1:
        raise UserError(f"{name} holds {pages} pages; save each as a file of its own")
    if colors == _LAB or (colors == _MIN_IS_WHITE and bits > 8):
        raise UserError(f"{name} holds Lab colours, or 16-bit greys with 0 for white; save it as RGB or grey")
    if not ends or max(ends) > len(data):
        raise UserError(f"{name} is cut short; fetch it again or remove it")
