"""Every kind of image: converted by the stated rule or refused in one line, never silently wrong."""

import io
import resource
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from dbrnet.errors import UserError
from dbrnet.inference.image_reading import MAX_PIXELS, decode_image

GRAIN = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)
PIXELS = cv2.resize(GRAIN, (96, 64), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
KINDS = ["JPEG", "PNG", "TIFF", "BMP", "WEBP"]

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    best: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    file = io.BytesIO()
    Pillow.fromarray(PIXELS).convert(mode).save(file, kind, **best.get(kind, {}), **options)
    return file.getvalue()


def save_deep(values: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, values)[1].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_comes_out_as_rgb(kind: str) -> None:
    found = decode_image(encoded(kind), "x")
    assert found.dtype == np.uint8
    assert np.abs(found.astype(int) - PIXELS).max() <= (5 if kind == "JPEG" else 0)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *((kind, "L") for kind in KINDS),
        *(("PNG", mode) for mode in ("1", "P", "RGBA", "LA")),
        *(("TIFF", mode) for mode in ("1", "P", "RGBA", "CMYK", "YCbCr")),
        *(("BMP", mode) for mode in ("1", "P")),
        ("JPEG", "CMYK"),
    ],
)
def test_other_modes_are_what_pillow_makes_of_them(kind: str, mode: str) -> None:
    data = encoded(kind, mode)
    expected = np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode_image(data, "x") - expected).max() <= 1


def test_an_image_is_turned_as_exif_says() -> None:
    exif = Pillow.Exif()
    exif[274] = 6
    assert decode_image(encoded("JPEG", exif=exif), "x").shape == (96, 64, 3)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("colour", [False, True])
def test_of_sixteen_bits_the_upper_eight_in_use_are_kept(suffix: str, colour: bool) -> None:
    values = np.zeros((40, 40), np.uint16)
    values[0, :5] = 0, 255, 256, 4095, 65535
    found = decode_image(save_deep(cv2.merge([values] * 3) if colour else values, suffix), "x")
    assert found[0, :5, 0].tolist() == [0, 0, 1, 15, 255]
    values[0, 4] = 16
    found = decode_image(save_deep(values, suffix), "x", bit_depth=12)
    assert found[0, :5, 0].tolist() == [0, 15, 16, 255, 1]


def test_a_depth_that_cannot_be_right_is_refused_and_black_is_black() -> None:
    values = np.full((40, 40), 4095, np.uint16)
    with pytest.raises(UserError, match=r"x: uses 12 bits, and the bit depth given is 10; raise that"):
        decode_image(save_deep(values, ".png"), "x", bit_depth=10)
    with pytest.raises(UserError, match=r"x: uses 12 of 16 bits, so hardly a grey would be left"):
        decode_image(save_deep(values, ".png"), "x")
    assert decode_image(save_deep(values * 2, ".png"), "x").max() == 31
    assert not decode_image(save_deep(values * 0, ".png"), "x").any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9, 0.99])
def test_an_image_cut_short_is_refused(kind: str, kept: float) -> None:
    data = encoded(kind)
    with pytest.raises(UserError, match=r"^a/x\.png"):
        decode_image(data[: int(len(data) * kept)], "a/x.png")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF"])
def test_several_images_in_one_file_are_refused(kind: str) -> None:
    several = encoded(kind, save_all=True, append_images=[Pillow.fromarray(255 - PIXELS)])
    with pytest.raises(UserError, match=r"^x.*(animation|2 pages|GIF is not read)"):
        decode_image(several, "x")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"empty \(0 bytes\)"),
        (b"no image", "not a readable image"),
        (b"\x89PNG\r\n\x1a\n", "not a readable image"),
        (encoded("GIF", "P"), "GIF is not read"),
        (encoded("TIFF", "LAB"), "Lab colours"),
        (encoded("TIFF", "F"), "not a readable image|pixels; save it"),
        (encoded("TIFF", "I"), "not a readable image|pixels; save it"),
    ],
)
def test_other_kinds_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=rf"^x[: ].*({message})"):
        decode_image(data, "x")


def test_sixteen_bit_greys_that_count_from_white_are_refused() -> None:
    file = io.BytesIO()
    Pillow.fromarray(np.full((40, 40), 60000, np.uint16)).save(file, "TIFF", tiffinfo={262: 0})
    with pytest.raises(UserError, match="16-bit greys with 0 for white"):
        decode_image(file.getvalue(), "x")


def png_that_declares(height: int, width: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("height", "width"), [(10_000, 10_000), (2**20, 2**20), (1, 2**27)])
def test_too_many_pixels_are_refused_before_they_are_decoded(height: int, width: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=rf"^x: declares .*{MAX_PIXELS}|^x: declares more"):
        decode_image(png_that_declares(height, width), "x")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_caller_may_allow_fewer_pixels() -> None:
    assert decode_image(encoded("PNG"), "x", max_pixels=64 * 96).shape == (64, 96, 3)
    with pytest.raises(UserError, match="x: declares 64x96 pixels; at most 6143 are predicted at once"):
        decode_image(encoded("PNG"), "x", max_pixels=64 * 96 - 1)
