"""The built-in data: a seeded generator of steel-strip images in Severstal's layout.

    train.csv                ImageId,ClassId,EncodedPixels: one row an image and class, defective ones only
    train_images/*.jpg       <strip>_<copy>.jpg, such as s00012_r0.jpg and s00012_r180.jpg

A strip is drawn once: rolled texture, uneven light, harmless marks such as oil and dust, and its defects. It
is then photographed up to three times: turned or flipped, at another exposure, with other noise. Such copies
are near-duplicates; they share the strip's name and must not cross splits.
"""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data import rle
from dbrnet.data.dataset import write_table
from dbrnet.files import atomic_directory

HEIGHT, WIDTH = 128, 512

Plane = NDArray[np.float32]  # [H, W], light from 0 to 1
Region = NDArray[np.bool_]  # [H, W]

SCRATCH, PATCH, INCLUSION, SCALE_PIT = 1, 2, 3, 4  # ClassId in train.csv

# Drawn in random order and refilled when empty: rare classes stay rare, yet never vanish.
_DECK: tuple[tuple[int, ...], ...] = (
    *((),) * 7,
    *((SCRATCH,),) * 3,
    *((PATCH,),) * 3,
    *((INCLUSION,),) * 3,
    *((SCALE_PIT,),) * 2,
    (INCLUSION, SCRATCH),
    (SCALE_PIT, PATCH),
)
_DISC = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
_COPIES = {"r0": (1, 1), "r180": (-1, -1), "fh": (1, -1), "fv": (-1, 1)}  # name -> steps down and right


def generate(out: Path, *, images: int = 200, seed: int = 0) -> None:
    """Write `images` images of `HEIGHT` x `WIDTH` and their `train.csv` into the folder `out`.

    The same seed and number of images give the same bytes. A folder `out` that this function wrote is
    replaced; `UserError` where it holds anything else.
    """
    rows: list[tuple[str, int, str]] = []
    with atomic_directory(out, "generate") as partial:
        (partial / "train_images").mkdir()
        for name, jpeg, regions in _photographs(images, np.random.default_rng(seed)):
            (partial / "train_images" / name).write_bytes(jpeg)
            rows += [(name, label, rle.encode(region)) for label, region in regions.items()]
        write_table(partial / "train.csv", rle.COLUMNS, rows)


def _photographs(images: int, rng: np.random.Generator) -> Iterator[tuple[str, bytes, dict[int, Region]]]:
    """Yield the name, the JPEG and the region of each class, one image after the other."""
    strip, deck = 0, list[tuple[int, ...]]()
    while images:
        deck = deck or [_DECK[index] for index in rng.permutation(len(_DECK))]
        steel, regions = _draw_strip(deck.pop(), rng)
        copies = min(images, int(rng.choice((1, 2, 3), p=(0.6, 0.25, 0.15))))
        for copy in rng.permutation(sorted(_COPIES))[:copies]:
            down, right = _COPIES[copy]
            turned = {label: region[::down, ::right] for label, region in regions.items()}
            yield f"s{strip:05}_{copy}.jpg", _expose(steel[::down, ::right], rng), turned
        strip, images = strip + 1, images - copies


def _draw_strip(labels: tuple[int, ...], rng: np.random.Generator) -> tuple[Plane, dict[int, Region]]:
    """The brightness of a strip with defects of these classes, and the region of each class."""
    steel = _roll(rng)
    for mark in (_oil_stain, _light_streak, _roll_mark, _specks):
        if rng.random() < 0.35:
            steel += mark(rng)
    regions: dict[int, Region] = {}
    free = np.ones((HEIGHT, WIDTH), bool)
    for label in labels:
        wanted = rng.integers(1, 4)
        for _ in range(8):  # attempts: a crowded strip gets fewer defects
            region, relief = _DEFECTS[label](rng)
            # Annotators do not label slivers.
            shape = cv2.morphologyEx(region.astype(np.uint8), cv2.MORPH_OPEN, _DISC) > 0
            if not shape.any() or not free[shape].all():
                continue
            steel += cv2.GaussianBlur(shape.astype(np.float32), (0, 0), 0.8) * relief
            free &= cv2.dilate(shape.astype(np.uint8), _DISC, iterations=2) == 0
            regions[label] = regions.get(label, np.zeros_like(shape)) | shape
            wanted -= 1
            if not wanted:
                break
    return steel, regions


def _expose(steel: Plane, rng: np.random.Generator) -> bytes:
    """One photograph of a strip, as a JPEG with three equal channels."""
    light = steel * rng.uniform(0.93, 1.07) + rng.uniform(-0.02, 0.02)
    light += rng.normal(0, rng.uniform(0.008, 0.02), light.shape).astype(np.float32)
    grey = (light.clip(0, 1) * 255).round().astype(np.uint8)
    quality = int(rng.integers(75, 96))
    _, jpeg = cv2.imencode(".jpg", cv2.merge([grey] * 3), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.tobytes()


# Surfaces ------------------------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, down: float, right: float) -> Plane:
    """Smooth noise of mean 0 and deviation 1 whose features are about `down` x `right` pixels."""
    rows, columns = int(np.ceil(HEIGHT / down)) + 3, int(np.ceil(WIDTH / right)) + 3
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    size = (int(np.ceil(columns * right)), int(np.ceil(rows * down)))
    top, left = int(rng.integers(0, max(1, int(down)))), int(rng.integers(0, max(1, int(right))))
    fine = cv2.resize(coarse, size, interpolation=cv2.INTER_CUBIC)[top : top + HEIGHT, left : left + WIDTH]
    return ((fine - fine.mean()) / (fine.std() + 1e-6)).astype(np.float32)


def _roll(rng: np.random.Generator) -> Plane:
    """Sound steel: streaks along the rolling direction, grain, and light that falls off unevenly."""
    level = rng.uniform(0.48, 0.58)
    streaks = 0.6 * _noise(rng, 1.5, 200) + 0.8 * _noise(rng, 2.5, 60) + 0.5 * _noise(rng, 12, 400)
    grain = _noise(rng, 1, 4) + 0.7 * _noise(rng, 2, 2)
    light = 0.03 * _noise(rng, 90, 260) + 0.06 * rng.uniform(-1, 1) * np.linspace(-1, 1, WIDTH)
    steel = level + rng.uniform(0.012, 0.022) * streaks + rng.uniform(0.008, 0.018) * grain + light
    return steel.astype(np.float32)


def _grid(rng: np.random.Generator, half_height: float, half_width: float, tilt: float) -> tuple[Plane, Plane]:
    """Coordinates, in half-extents, around a random centre that keeps most of the shape in the image."""
    y0 = rng.uniform(min(half_height, HEIGHT / 2), max(HEIGHT - half_height, HEIGHT / 2))
    x0 = rng.uniform(min(half_width, WIDTH / 2), max(WIDTH - half_width, WIDTH / 2))
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    y, x = y - np.float32(y0), x - np.float32(x0)
    cosine, sine = np.float32(np.cos(tilt)), np.float32(np.sin(tilt))
    return (y * cosine - x * sine) / np.float32(half_height), (x * cosine + y * sine) / np.float32(half_width)


# Marks that are no defects --------------------------------------------------------------------------------


def _oil_stain(rng: np.random.Generator) -> Plane:
    """A faint, soft-edged shade: no ragged edge, no texture of its own."""
    v, u = _grid(rng, rng.uniform(20, 45), rng.uniform(40, 90), rng.uniform(-0.4, 0.4))
    depth = np.exp(-((v**2 + u**2 + 0.25 * _noise(rng, 30, 50)).clip(0) ** 1.5))
    return (-rng.uniform(0.04, 0.08) * depth).astype(np.float32)


def _light_streak(rng: np.random.Generator) -> Plane:
    """A reflection: a soft bright band across the whole image."""
    v, _ = _grid(rng, rng.uniform(5, 14), WIDTH, rng.uniform(-0.03, 0.03))
    return (rng.uniform(0.04, 0.1) * np.exp(-(v**2))).astype(np.float32)


def _roll_mark(rng: np.random.Generator) -> Plane:
    """Faint bars across the strip, spaced by a worn roll's circumference."""
    pitch, phase, bend = rng.uniform(50, 110), rng.uniform(0, 1), 3 * _noise(rng, 60, 200)
    waves = np.cos(2 * np.pi * ((np.arange(WIDTH) + bend) / pitch + phase))
    return (rng.uniform(-0.3, 0.3) * (waves.clip(0.8) - 0.8)).astype(np.float32)


def _specks(rng: np.random.Generator) -> Plane:
    """Dust: dark dots too small to matter."""
    dots = np.zeros((HEIGHT, WIDTH), np.float32)
    count = int(rng.integers(8, 40))
    dots[rng.integers(0, HEIGHT, count), rng.integers(0, WIDTH, count)] = rng.uniform(-3, -1, count)
    return cv2.GaussianBlur(dots, (0, 0), float(rng.uniform(0.8, 1.3))).astype(np.float32)


# Defects: a region and the change of brightness in it -----------------------------------------------------


def _scratch(rng: np.random.Generator) -> tuple[Region, Plane]:
    """A long bright score of several parallel grooves, frayed at its rims."""
    v, u = _grid(rng, rng.uniform(9, 12), rng.uniform(90, 170), rng.uniform(-0.25, 0.25))
    v = v + rng.uniform(-1.5, 1.5) * u**2 + 0.3 * _noise(rng, 60, 60)
    fray = 0.1 * _noise(rng, 4, 14) + 0.12 * _noise(rng, 3, 40)
    shape = np.abs(v) < (1 - u**2).clip(0) ** 0.35 + fray * (np.abs(u) < 1)
    grooves = np.cos(v * rng.uniform(3.5, 6) + rng.uniform(0, 6) + 0.4 * _noise(rng, 10, 60))
    relief = rng.uniform(0.16, 0.24) + 0.09 * grooves + 0.04 * _noise(rng, 1.5, 12)
    return shape, relief.astype(np.float32)


def _patch(rng: np.random.Generator) -> tuple[Region, Plane]:
    """A large, dull, mottled area with a ragged rim."""
    v, u = _grid(rng, rng.uniform(24, 42), rng.uniform(38, 80), rng.uniform(-0.5, 0.5))
    rim = 0.3 * _noise(rng, 24, 30) + 0.14 * _noise(rng, 8, 10) + 0.05 * _noise(rng, 3, 4)
    mottle = 0.6 * _noise(rng, 7, 9) + 0.4 * _noise(rng, 3, 4)
    return v**2 + u**2 < 1 + rim, (-rng.uniform(0.12, 0.17) + 0.045 * mottle).astype(np.float32)


def _inclusion(rng: np.random.Generator) -> tuple[Region, Plane]:
    """Slag rolled into the steel: a nearly black, torn streak along the rolling direction."""
    v, u = _grid(rng, rng.uniform(12, 18), rng.uniform(35, 75), rng.uniform(-0.12, 0.12))
    rim = 0.4 * _noise(rng, 9, 22) + 0.15 * _noise(rng, 3, 8)
    v = v + 0.35 * _noise(rng, 60, 30)
    return v**2 + u**2 < 1 + rim, (-rng.uniform(0.3, 0.38) + 0.04 * _noise(rng, 2, 7)).astype(np.float32)


def _scale_pit(rng: np.random.Generator) -> tuple[Region, Plane]:
    """A cluster of pits left by scale: dark hollows with bright rims, close together."""
    v, u = _grid(rng, rng.uniform(20, 34), rng.uniform(30, 60), rng.uniform(-0.6, 0.6))
    rim = 0.3 * _noise(rng, 18, 22) + 0.12 * _noise(rng, 6, 7)
    pits = _noise(rng, 6, 8)
    hollows = 1 / (1 + np.exp(-6 * (pits - 0.6)))
    rims = np.exp(-(((pits - 0.05) / 0.35) ** 2))
    relief = 0.02 - 0.34 * hollows + 0.1 * rims + 0.035 * _noise(rng, 2, 3)
    return v**2 + u**2 < 1 + rim, relief.astype(np.float32)


_DEFECTS = {SCRATCH: _scratch, PATCH: _patch, INCLUSION: _inclusion, SCALE_PIT: _scale_pit}
