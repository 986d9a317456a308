import resource
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dbrnet.data.dataset import decode_image
from dbrnet.data.image_decoding import read_any, read_class_ids, read_marked, read_whole
from dbrnet.errors import UserError
from tests.data.conftest import encoded

pytestmark = pytest.mark.filterwarnings("ignore:Corrupt EXIF", "ignore:Truncated File")  # Pillow's, on damaged files

PIXELS = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_whole_files_are_accepted_also_with_a_trailer(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    for trailer in (b"", b"\n", bytes(40)):
        path.write_bytes(encoded(PIXELS, suffix) + trailer)
        assert read_whole(path) == encoded(PIXELS, suffix) + trailer


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".bmp"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9, 0.99, 0.999])
def test_truncated_files_are_refused(tmp_path: Path, suffix: str, kept: float) -> None:
    path, content = tmp_path / "strip", encoded(PIXELS, suffix)
    begin = content[: int(len(content) * kept)]
    path.write_bytes(begin)
    with pytest.raises(UserError, match="strip"):
        read_any(path, 16)
    if begin and suffix in {".jpg", ".png"}:
        for padding in (b"", bytes(2000)):  # zeros: what some systems leave after a crash
            path.write_bytes(begin + padding)
            for read in (read_whole, lambda path: read_any(path, 16)):
                with pytest.raises(UserError, match="strip is cut short"):
                    read(path)


def test_end_of_a_thumbnail_is_not_taken_for_the_images(tmp_path: Path) -> None:
    thumbnail = b"Exif\0\0" + encoded(PIXELS[:8, :8], ".jpg")
    segment = b"\xff\xe1" + (len(thumbnail) + 2).to_bytes(2, "big") + thumbnail
    whole = encoded(PIXELS, ".jpg")
    path = tmp_path / "camera.jpg"
    path.write_bytes(whole[:2] + segment + whole[2:])
    read_whole(path)
    path.write_bytes(whole[:2] + segment + whole[2:-100])
    with pytest.raises(UserError, match="cut short"):
        read_whole(path)


def write(path: Path, pixels: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), pixels)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tiff", ".bmp"])
@pytest.mark.parametrize("grey", [False, True])
def test_every_format_is_read_and_kept_without_loss(tmp_path: Path, suffix: str, grey: bool) -> None:
    pixels = PIXELS[:, :, 0] if grey else PIXELS
    path = write(tmp_path / f"image{suffix}", pixels)
    image = read_any(path, 16)
    assert np.array_equal(image.pixels, decode_image(image.data, "kept"))
    assert image.suffix == (".jpg" if suffix == ".jpg" else ".png")
    if suffix != ".jpg":
        assert np.array_equal(image.pixels, cv2.merge([pixels] * 3) if grey else PIXELS[:, :, ::-1])
    assert (image.data == path.read_bytes()) == (suffix in {".jpg", ".png"})
    assert image.brightest is None


def test_format_is_detected_from_the_content(tmp_path: Path) -> None:
    path = write(tmp_path / "image.jpg", PIXELS).rename(tmp_path / "image.png")
    assert read_any(path, 16).suffix == ".jpg"


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
def test_16_bits_become_the_upper_8_of_those_in_use(tmp_path: Path, suffix: str, shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, np.uint16)
    values[0, :6] = np.array([0, 15, 16, 255, 256, 4095]).reshape(-1, *[1] * (len(shape) - 2))
    path = write(tmp_path / f"deep{suffix}", values)
    for bits, expected in ((16, [0, 0, 0, 0, 1, 15]), (12, [0, 0, 1, 15, 16, 255])):
        image = read_any(path, bits)
        assert image.pixels[0, :, 0].tolist() == expected
        assert image.pixels.dtype == np.uint8
        assert np.array_equal(decode_image(image.data, "kept"), image.pixels)
        assert image.brightest == 4095
    with pytest.raises(UserError, match=r"holds the value 4095, and ingest.bit_depth is 11"):
        read_any(path, 11)


# Counter-clockwise, after mirroring at the main diagonal for 2, 4, 5 and 7.
QUARTER_TURNS = {1: 0, 2: 3, 3: 2, 4: 1, 5: 0, 6: 3, 7: 2, 8: 1}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
@pytest.mark.parametrize("orientation", [1, 2, 3, 4, 5, 6, 7, 8])
def test_images_are_turned_as_exif_says(tmp_path: Path, kind: str, orientation: int) -> None:
    blocks = np.kron(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40, np.ones((16, 16), np.uint8))
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / "turned"
    Image.fromarray(blocks).save(path, kind, exif=exif, **({"quality": 100} if kind == "JPEG" else {}))
    turned = np.rot90(blocks.T if orientation in {2, 4, 5, 7} else blocks, QUARTER_TURNS[orientation])
    displayed = np.dstack([turned] * 3).astype(int)
    image = read_any(path, 16)
    assert image.pixels.shape == displayed.shape
    assert np.abs(image.pixels - displayed).max() <= 3
    assert np.array_equal(decode_image(image.data, "kept"), image.pixels)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "1"])
def test_other_modes_come_out_as_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "image.tif"
    kind = "PNG" if mode in {"LA", "P"} else "TIFF"
    Image.fromarray(PIXELS).convert(mode).save(path, kind)
    image = read_any(path, 16)
    assert image.pixels.shape == (64, 96, 3)
    assert np.array_equal(decode_image(image.data, "kept"), image.pixels)


def test_truncated_tiff_and_one_of_several_pages_are_refused(tmp_path: Path) -> None:
    path, page = tmp_path / "image.tif", Image.fromarray(PIXELS)
    page.save(path, "TIFF")
    content = path.read_bytes()
    assert int.from_bytes(content[4:8], "little") < 100, "its directory comes first"
    path.write_bytes(content[:-1000])
    with pytest.raises(UserError, match=r"image\.tif is cut short"):
        read_any(path, 16)
    page.save(path, save_all=True, append_images=[page])
    with pytest.raises(UserError, match=r"image\.tif holds 2 pages"):
        read_any(path, 16)


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"\x89PN", b"no image", b"BM", b"II*\0", b"II*\0" + b"\xff" * 99, b"BM" + b"\xff" * 99]
)
def test_file_that_is_no_image_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "strip.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"strip\.jpg"):
        read_any(tmp_path / "strip.jpg", 16)
    with pytest.raises(UserError, match=r"strip\.jpg is not a JPEG or PNG"):
        read_whole(tmp_path / "strip.jpg")


def png_that_declares(height: int, width: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("height", "width"), [(100_000, 100_000), (12_000, 12_000), (1, 2**22)])
def test_too_many_declared_pixels_are_refused_before_decoding(tmp_path: Path, height: int, width: int) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_that_declares(height, width))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (lambda: read_any(path, 16), lambda: read_class_ids(path)):
        with pytest.raises(UserError, match=r"bomb\.png"):
            read()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_masks_of_one_channel_or_a_palette_hold_ids(tmp_path: Path) -> None:
    ids = (PIXELS[:, :, 0] % 4).astype(np.uint8)
    assert np.array_equal(read_class_ids(write(tmp_path / "grey.png", ids)), ids)
    indexed = Image.fromarray(ids, "P")
    indexed.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200])
    for bits in (8, 2):
        indexed.save(tmp_path / "palette.png", bits=bits)
        assert np.array_equal(read_class_ids(tmp_path / "palette.png"), ids)


def test_mask_of_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a PNG file; masks must be"):
        read_class_ids(write(tmp_path / "mask.jpg", PIXELS[:, :, 0]))
    with pytest.raises(UserError, match="one 8-bit channel"):
        read_class_ids(write(tmp_path / "mask.png", PIXELS))


@pytest.mark.parametrize("kind", ["8 bit", "16 bit", "1 bit", "colour", "alpha"])
def test_binary_mask_marks_what_is_not_zero(tmp_path: Path, kind: str) -> None:
    marked = PIXELS[:, :, 0] > 200
    path = tmp_path / "mask.png"
    if kind == "1 bit":
        Image.fromarray(marked).save(path)
    else:
        pixels = marked.astype(np.uint16 if kind == "16 bit" else np.uint8)
        blank, full = np.zeros_like(pixels), np.full_like(pixels, 255)
        channels = {"colour": [blank, blank, pixels], "alpha": [pixels, blank, blank, full]}
        write(path, cv2.merge(channels[kind]) if kind in channels else pixels)
    assert np.array_equal(read_marked(path), marked)
