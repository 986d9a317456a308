import io
import os
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pillow

from dbrnet.data.dataset import Image
from dbrnet.errors import UserError
from dbrnet.inference.images import MAX_PIXELS, declared_frames, decode_image, find_sources, read_frames
from tests.data.test_image_decoding import png_that_declares
from tests.inference.conftest import FOUR_CC, save_video
from tests.storage.s3_server import BUCKET, S3Server

TREE = (
    "b.png",
    "a.JPG",
    "day 1/c.tif",
    "day 1/night/d.mp4",
    "f.gif",
    "notes.txt",
    "x[1].txt",
    ".hidden.png",
    ".cache/e.png",
)
WANTED = {"a.JPG": "a", "b.png": "b", "day 1/c.tif": "day 1/c", "day 1/night/d.mp4": "day 1/night/d.mp4", "f.gif": "f"}


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in TREE:
        path = tmp_path / "line3" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def outputs_of(*words: str) -> dict[str, str]:
    return {source.place: source.output for source in find_sources(words, Path("scratch"))}


def test_a_folder_stands_for_the_files_below_it(tree: Path) -> None:
    sources = find_sources(["line3"], Path("scratch"))
    assert {source.name: source.output for source in sources} == WANTED
    assert [source.name for source in sources] == sorted(WANTED)
    assert [source.place for source in sources] == [f"line3/{source.name}" for source in sources]
    assert [source.is_video for source in sources] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("line3/*.png", {"line3/b.png": "b"}),
        ("line3/**/*.tif", {"line3/day 1/c.tif": "day 1/c"}),
        ("line3/**/*", {f"line3/{name}": output for name, output in WANTED.items()}),
        ("line?/*", {f"line3/{name}": f"line3/{output}" for name, output in WANTED.items()}),
        ("line3/[ab].*", {"line3/a.JPG": "a", "line3/b.png": "b"}),
        ("line3/b.png", {"line3/b.png": "b"}),
        ("line3/x[1].txt", {"line3/x[1].txt": "x[1]"}),  # an existing file goes before a glob
        ("line3/notes.txt", {"line3/notes.txt": "notes"}),  # named by itself: reading it will tell
    ],
)
def test_files_and_globs_are_found_by_relative_and_absolute_path(
    tree: Path, word: str, expected: dict[str, str]
) -> None:
    assert outputs_of(word) == expected
    absolute = {str(tree / place): output for place, output in expected.items()}
    assert outputs_of(str(tree / word)) == absolute


def test_each_file_is_taken_once_whatever_the_order_of_words(tree: Path) -> None:
    for name in ("one/x.png", "two/x.png", "two/x-2.png", "two/x.jpg"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"")
    words = ["line3", "line3/*.png", "one/x.png", "two/x.png", "two", "line3/day 1/c.tif"]
    expected = find_sources(words, Path("scratch"))
    for seed in range(5):
        shuffled = random.Random(seed).sample(words, len(words))
        assert find_sources(shuffled, Path("scratch")) == expected
    assert len({source.name for source in expected}) == len({source.output for source in expected}) == 9
    assert len(expected) == 9
    named = {source.place: (source.name, source.output) for source in expected}
    assert named["two/x-2.png"] == ("x-2.png", "x-2")  # a name of its own is never given to another
    assert named["two/x.jpg"] == ("x.jpg", "x")
    assert named["one/x.png"] == ("x.png", "x-4")
    assert named["two/x.png"] == ("x-3.png", "x-3")


def test_an_earlier_predictions_output_is_left_out(tree: Path) -> None:
    for folder in ("masks", "overlays"):
        (tree / "line3" / folder).mkdir()
        (tree / "line3" / folder / "a.png").write_bytes(b"")
    left_out = [tree / "line3/masks", tree / "line3/overlays"]
    for word in ("line3", "line3/**/*", "*"):
        assert len(find_sources([word], Path("scratch"), left_out)) == len(WANTED)
        assert len(find_sources([word], Path("scratch"))) == len(WANTED) + 2


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gone.png", "gone.png: there is no such file or folder"),
        ("empty", "empty: no image or video there"),
        ("line3/*.bmp", r"line3/\*.bmp: no image or video there"),
        ("line3/**.png", r"line3/\*\*.png: not a glob"),
        ("http://line3/a.png", "no such file"),
    ],
)
def test_a_word_without_images_is_refused(tree: Path, word: str, message: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        outputs_of("line3", word)
    with pytest.raises(UserError, match="no image to predict"):
        outputs_of()


def test_images_in_s3_are_fetched(s3: S3Server, tmp_path: Path) -> None:
    for name in TREE:
        s3.client().put_object(Bucket=BUCKET, Key=f"predict/{name}", Body=name.encode())
    address = f"s3://{BUCKET}/predict"
    for word in (f"{address}/", address):
        sources = find_sources([word, f"{address}/b.png"], tmp_path / word.replace("/", "-"))
        assert {source.name: source.output for source in sources} == WANTED
        assert [source.place for source in sources] == [f"{address}/{source.name}" for source in sources]
        assert [source.path.read_bytes() for source in sources] == [source.name.encode() for source in sources]


GRAIN = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8)
PIXELS = cv2.resize(GRAIN, (96, 64), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
KINDS = ["JPEG", "PNG", "TIFF", "BMP", "WEBP"]

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")


def encoded(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    best: dict[str, dict[str, Any]] = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}
    file = io.BytesIO()
    Pillow.fromarray(PIXELS).convert(mode).save(file, kind, **best.get(kind, {}), **options)
    return file.getvalue()


def encode_deep(values: np.ndarray, suffix: str) -> bytes:
    return cv2.imencode(suffix, values)[1].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_image_is_decoded_to_rgb(kind: str) -> None:
    image = decode_image(encoded(kind), "x")
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - PIXELS).max() <= (5 if kind == "JPEG" else 0)


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
def test_other_colour_modes_are_converted_as_by_pillow(kind: str, mode: str) -> None:
    data = encoded(kind, mode)
    expected = np.asarray(Pillow.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode_image(data, "x") - expected).max() <= 1


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("colour", [False, True])
def test_the_upper_eight_of_the_bits_in_use_are_kept(suffix: str, colour: bool) -> None:
    values = np.zeros((40, 40), np.uint16)
    values[0, :5] = 0, 255, 256, 4095, 65535
    image = decode_image(encode_deep(cv2.merge([values] * 3) if colour else values, suffix), "x")
    assert image[0, :5, 0].tolist() == [0, 0, 1, 15, 255]
    values[0, 4] = 16
    image = decode_image(encode_deep(values, suffix), "x", bit_depth=12)
    assert image[0, :5, 0].tolist() == [0, 15, 16, 255, 1]


def test_a_wrong_bit_depth_is_refused_but_a_black_image_is_not() -> None:
    values = np.full((40, 40), 4095, np.uint16)
    with pytest.raises(UserError, match=r"x: uses 12 bits, and the bit depth given is 10; raise that"):
        decode_image(encode_deep(values, ".png"), "x", bit_depth=10)
    with pytest.raises(UserError, match=r"x: uses 12 of 16 bits, so hardly a grey would be left"):
        decode_image(encode_deep(values, ".png"), "x")
    assert decode_image(encode_deep(values * 2, ".png"), "x").max() == 31
    assert not decode_image(encode_deep(values * 0, ".png"), "x").any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kept", [0.01, 0.3, 0.9, 0.99])
def test_an_image_cut_short_is_refused(kind: str, kept: float) -> None:
    data = encoded(kind)
    with pytest.raises(UserError, match=r"^a/x\.png"):
        decode_image(data[: int(len(data) * kept)], "a/x.png")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "GIF"])
def test_a_file_of_several_images_is_refused(kind: str) -> None:
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
def test_files_of_other_kinds_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=rf"^x[: ].*({message})"):
        decode_image(data, "x")


def test_sixteen_bit_greys_with_inverted_scale_are_refused() -> None:
    file = io.BytesIO()
    Pillow.fromarray(np.full((40, 40), 60000, np.uint16)).save(file, "TIFF", tiffinfo={262: 0})
    with pytest.raises(UserError, match="16-bit greys with 0 for white"):
        decode_image(file.getvalue(), "x")


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


FRAMES = [np.full((64, 96, 3), (20 * number, 255 - 20 * number, 40), np.uint8) for number in range(12)]


@pytest.mark.parametrize("suffix", FOUR_CC)
def test_each_frame_of_a_video_comes_once_in_order_and_as_rgb(tmp_path: Path, suffix: str) -> None:
    path = save_video(tmp_path / f"clip{suffix}", FRAMES)
    frames = list(read_frames(path, "clip"))
    assert declared_frames(path) == len(frames) == len(FRAMES)
    for frame, expected in zip(frames, FRAMES, strict=True):
        assert frame.dtype == np.uint8
        assert frame.shape == expected.shape
        assert np.abs(frame.mean((0, 1)) - expected.mean((0, 1))).max() < 12  # video compression


@pytest.mark.parametrize("suffix", FOUR_CC)
def test_a_video_cut_short_gives_its_frames_and_then_an_error(
    tmp_path: Path, suffix: str, make_image: Callable[..., Image]
) -> None:
    path = save_video(tmp_path / f"clip{suffix}", [make_image(64, 96, seed) for seed in range(12)])
    os.truncate(path, path.stat().st_size * 6 // 10)
    read = 0
    with pytest.raises(UserError, match=r"^clip: (not a readable video|only \d+ of the 12 frames)"):
        for _ in read_frames(path, "clip"):
            read += 1
    assert read < 12
    assert (read > 0) == (suffix not in {".mp4", ".mov"})  # those have their table at the end


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".webm"])
def test_a_damaged_frame_of_a_video_is_an_error(tmp_path: Path, suffix: str, make_image: Callable[..., Image]) -> None:
    path = save_video(tmp_path / f"clip{suffix}", [make_image(64, 96, seed) for seed in range(12)])
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 3000] = bytes(3000)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"^clip: only \d+ of the 12 frames declared can be read"):
        list(read_frames(path, "clip"))


def test_a_playlist_named_as_a_video_is_not_followed(tmp_path: Path) -> None:
    save_video(tmp_path / "other.avi", FRAMES)
    (tmp_path / "list.avi").write_text("ffconcat version 1.0\nfile other.avi\n")
    (tmp_path / "empty.mp4").touch()
    for path in (tmp_path / "list.avi", tmp_path / "empty.mp4", tmp_path / "gone.mp4"):
        assert declared_frames(path) == 0
        with pytest.raises(UserError, match=r"^x: not a readable video"):
            list(read_frames(path, "x"))
