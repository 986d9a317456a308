"""A seeded generator of metal surfaces with defects, drawn on the fly, to pretrain on.

It imitates no dataset. It is meant to be wide: rolled, ground, cast and painted textures with the grain in any
direction, uneven light, black borders and harmless marks; on them defects of nine kinds, from hairlines to
blotches, dark or bright, each with its mask. What a network learns here is what a defect is: something local
that breaks the texture around it.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Plane = NDArray[np.float32]  # [H, W]
Region = NDArray[np.bool_]  # [H, W]

KINDS = ("pit", "crack", "scratch", "patch", "inclusion", "chip", "texture", "stain", "fray")  # class ids from 1
DEFECT_FREE = 0.2  # share of the images
MOST_COVERED = 0.45  # share of an image that defects may cover


@dataclass(frozen=True)
class Canvas:
    """Where one image is drawn: its size in pixels, the direction of the grain in radians, and the randomness."""

    height: int
    width: int
    grain: float
    rng: np.random.Generator

    def log_uniform(self, low: float, high: float) -> float:
        """A number between two, all ratios equally likely."""
        return float(np.exp(self.rng.uniform(np.log(low), np.log(high))))

    def noise(self, along: float, across: float | None = None, angle: float | None = None) -> Plane:
        """Smooth noise of mean 0 and deviation 1 whose features are `along` x `across` pixels, turned by `angle`.

        Without `across` the features are round. Without `angle` they lie along the grain.
        """
        across = along if across is None else across
        angle = self.grain if angle is None else angle
        diagonal = float(np.hypot(self.height, self.width))
        shape = (int(diagonal / across) + 5, int(diagonal / along) + 5)
        coarse = self.rng.standard_normal(shape, dtype=np.float32)
        cosine, sine = np.cos(angle), np.sin(angle)
        turn = np.array([[cosine / along, sine / along], [-sine / across, cosine / across]])
        centre = np.array([shape[1] - 1, shape[0] - 1]) / 2 + self.rng.uniform(-0.5, 0.5, 2)
        shift = centre - turn @ (np.array([self.width, self.height]) / 2)
        fine = cv2.warpAffine(
            coarse,
            np.column_stack([turn, shift]),
            (self.width, self.height),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT_101,
        )
        return _standardised(fine.astype(np.float32))

    def axes(self, angle: float, y: float, x: float) -> tuple[Plane, Plane]:
        """Coordinates in pixels around (y, x): along `angle`, and across it."""
        rows, columns = np.ogrid[: self.height, : self.width]
        down, right = (rows - y).astype(np.float32), (columns - x).astype(np.float32)
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return right * cosine + down * sine, down * cosine - right * sine

    def place(self) -> tuple[float, float]:
        """Row and column of any point of the image."""
        return float(self.rng.uniform(0, self.height)), float(self.rng.uniform(0, self.width))

    def direction(self) -> float:
        """An angle: often along the grain, sometimes across it, else any."""
        roll = self.rng.random()
        if roll < 0.5:
            return self.grain + float(self.rng.normal(0, 0.06))
        if roll < 0.65:
            return self.grain + np.pi / 2 + float(self.rng.normal(0, 0.1))
        return float(self.rng.uniform(0, np.pi))


def draw(rng: np.random.Generator, height: int, width: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """One image [H, W, 3] with three equal channels, and its mask [H, W] of class ids (see `KINDS`)."""
    grain = float(rng.choice([0, np.pi / 2, rng.uniform(0, np.pi)], p=[0.4, 0.4, 0.2]))
    canvas = Canvas(height, width, grain, rng)
    surface, outside = _surface(canvas)
    mask = np.zeros((height, width), np.uint8)
    if rng.random() >= DEFECT_FREE:
        for kind in rng.choice(len(KINDS), size=int(rng.choice([1, 2, 3], p=[0.55, 0.3, 0.15])), replace=False):
            surface = _add_defects(canvas, surface, mask, int(kind), outside)
    image = _photograph(canvas, surface, outside)
    mask[outside] = 0
    return cv2.merge([image] * 3).astype(np.uint8, copy=False), mask


def _add_defects(canvas: Canvas, surface: Plane, mask: NDArray[np.uint8], kind: int, outside: Region) -> Plane:
    """`surface` with some defects of one kind; `mask` gets their regions."""
    rng = canvas.rng
    deviation = float(surface.std())
    for _ in range(int(rng.integers(1, _MOST[kind] + 1))):
        region, relief = _DEFECTS[kind](canvas)
        covered = float((region | (mask > 0)).mean())
        if region.sum() < 12 or covered > MOST_COVERED or (region & outside).sum() > region.sum() / 2:
            continue
        strength = max(0.035, deviation * canvas.log_uniform(1.2, 5))
        soft = cv2.GaussianBlur(region.astype(np.float32), (0, 0), canvas.log_uniform(0.5, 2))
        surface = surface + soft * relief * strength
        mask[region] = kind + 1
    return surface


# The surface ----------------------------------------------------------------------------------------------------


def _surface(canvas: Canvas) -> tuple[Plane, Region]:
    """Sound metal under uneven light, with harmless marks; and which pixels lie outside it."""
    rng = canvas.rng
    surface = np.zeros((canvas.height, canvas.width), np.float32)
    stretch = float(rng.choice([1, canvas.log_uniform(1.5, 8), canvas.log_uniform(8, 200)], p=[0.35, 0.25, 0.4]))
    for _ in range(int(rng.integers(2, 5))):
        across = canvas.log_uniform(0.8, 14)
        surface += canvas.log_uniform(0.2, 1) * canvas.noise(across * stretch, across)
    if rng.random() < 0.3:  # sparkling or spotted rather than symmetric
        surface = np.exp(canvas.log_uniform(0.2, 0.8) * float(rng.choice([-1, 1])) * _standardised(surface))
    surface = _standardised(surface) * canvas.log_uniform(0.006, 0.07)
    surface *= 1 + 0.4 * canvas.noise(canvas.log_uniform(40, 200))  # the texture is not the same everywhere
    for mark, chance in _MARKS:
        if rng.random() < chance:
            surface = surface + mark(canvas)
    light = 1 + canvas.log_uniform(0.02, 0.3) * canvas.noise(canvas.log_uniform(80, 400), canvas.log_uniform(60, 300))
    surface = (rng.uniform(0.25, 0.75) + surface) * light.clip(0.3, 1.7)
    outside = np.zeros(surface.shape, bool)
    if rng.random() < 0.25:
        _, across_edge = canvas.axes(
            canvas.grain + float(rng.choice([0, np.pi / 2, np.pi, -np.pi / 2])), *canvas.place()
        )
        distance = across_edge + canvas.log_uniform(0.2, 3) * canvas.noise(canvas.log_uniform(10, 60))
        if (distance > 0).mean() < 0.6:
            outside = distance > 0
            rim = np.exp(-((distance / canvas.log_uniform(2, 10)) ** 2))
            surface = surface + float(rng.uniform(-0.15, 0.3)) * rim
    return surface.astype(np.float32), outside


def _photograph(canvas: Canvas, surface: Plane, outside: Region) -> NDArray[np.uint8]:
    """The surface as a camera sees it: exposure, blur, noise and 8 bits."""
    rng = canvas.rng
    light = surface * canvas.log_uniform(0.5, 1.6) + float(rng.uniform(-0.08, 0.08))
    light = np.where(outside, float(rng.uniform(0, 0.08)), light).astype(np.float32)
    if rng.random() < 0.5:
        light = cv2.GaussianBlur(light, (0, 0), canvas.log_uniform(0.4, 1.4)).astype(np.float32)
    light += rng.standard_normal(light.shape, dtype=np.float32) * np.float32(canvas.log_uniform(0.003, 0.04))
    return (light.clip(0, 1) * 255).round().astype(np.uint8)


def _standardised(plane: Plane) -> Plane:
    return ((plane - plane.mean()) / (plane.std() + 1e-6)).astype(np.float32)


# Marks that are no defects --------------------------------------------------------------------------------------


def _shadow(canvas: Canvas) -> Plane:
    """A soft shade or shine without an edge."""
    along, across = canvas.axes(canvas.direction(), *canvas.place())
    length, breadth = canvas.log_uniform(40, 200), canvas.log_uniform(25, 120)
    return (canvas.rng.uniform(-0.12, 0.12) * np.exp(-((along / length) ** 2) - (across / breadth) ** 2)).astype(
        np.float32
    )


def _band(canvas: Canvas) -> Plane:
    """A soft band of light or shade right across the image."""
    _, across = canvas.axes(canvas.grain + float(canvas.rng.choice([0, np.pi / 2])), *canvas.place())
    return (canvas.rng.uniform(-0.1, 0.12) * np.exp(-((across / canvas.log_uniform(8, 60)) ** 2))).astype(np.float32)


def _step(canvas: Canvas) -> Plane:
    """Two zones that were ground or lit differently, with a straight limit."""
    _, across = canvas.axes(canvas.grain + float(canvas.rng.choice([0, np.pi / 2])), *canvas.place())
    return (canvas.rng.uniform(-0.08, 0.08) * np.tanh(across / canvas.log_uniform(1, 20))).astype(np.float32)


def _dust(canvas: Canvas) -> Plane:
    """Specks too small to matter."""
    rng = canvas.rng
    dots = np.zeros((canvas.height, canvas.width), np.float32)
    count = int(rng.integers(5, 60))
    dots[rng.integers(0, canvas.height, count), rng.integers(0, canvas.width, count)] = rng.uniform(-1, 0.6, count)
    return cv2.GaussianBlur(dots, (0, 0), float(rng.uniform(0.5, 0.9))).astype(np.float32)


def _lattice(canvas: Canvas) -> Plane:
    """A regular pattern: tread, roll marks, ripples."""
    along, across = canvas.axes(canvas.grain, *canvas.place())
    pitch = canvas.log_uniform(6, 70)
    wave = np.cos(2 * np.pi * along / pitch) * (1 if canvas.rng.random() < 0.5 else np.cos(2 * np.pi * across / pitch))
    return (canvas.rng.uniform(-0.07, 0.07) * np.maximum(wave, canvas.rng.uniform(-1, 0.7))).astype(np.float32)


_MARKS: tuple[tuple[Callable[[Canvas], Plane], float], ...] = (
    (_shadow, 0.5),
    (_shadow, 0.3),
    (_band, 0.25),
    (_step, 0.15),
    (_dust, 0.3),
    (_lattice, 0.12),
)

# Defects: a region, and the change of brightness in it in multiples of the defect's strength ----------------------


def _sign(canvas: Canvas, dark: float) -> float:
    return -1.0 if canvas.rng.random() < dark else 1.0


def _blob(canvas: Canvas, length: float, breadth: float, ragged: float) -> Plane:
    """A field that is positive inside a ragged ellipse: 1 at its centre, 0 at its rim."""
    along, across = canvas.axes(canvas.direction(), *canvas.place())
    size = min(length, breadth)
    rim = ragged * (0.7 * canvas.noise(max(2, size / 1.5)) + 0.4 * canvas.noise(max(1.5, size / 5)))
    return (1 + rim - np.sqrt((along / length) ** 2 + (across / breadth) ** 2)).astype(np.float32)


def _pit(canvas: Canvas) -> tuple[Region, Plane]:
    """A small, compact hole or bump, often with a rim that catches the light."""
    size = canvas.log_uniform(2.5, 14)
    field = _blob(canvas, size * canvas.log_uniform(1, 2), size, canvas.rng.uniform(0.05, 0.3))
    rim = np.exp(-(((field - 0.15) / 0.2) ** 2)) * canvas.rng.uniform(-0.5, 1.5)
    return field > 0, (_sign(canvas, 0.8) * (1.5 * np.sqrt(field.clip(0)) - rim)).astype(np.float32)


def _path(canvas: Canvas, *, length: float, wander: float, breadth: float) -> Region:
    """A line of `length` pixels that turns by `wander` radians every few pixels; `breadth` pixels wide, tapering."""
    rng = canvas.rng
    step = 4.0
    count = max(2, int(length / step))
    angles = canvas.direction() + np.cumsum(rng.normal(0, wander, count)) * 0.5 + rng.normal(0, wander, count)
    points = np.cumsum(np.column_stack([np.cos(angles), np.sin(angles)]) * step, axis=0)
    y, x = canvas.place()
    points += np.array([x, y]) - points[count // 2]
    widths = breadth * (0.6 + 0.4 * np.sin(np.linspace(0.15, np.pi - 0.15, count))) * rng.uniform(0.7, 1.3, count)
    drawn = np.zeros((canvas.height, canvas.width), np.uint8)
    for start, end, width in zip(points[:-1], points[1:], widths, strict=False):
        ends = [tuple(round(16 * float(value)) for value in point) for point in (start, end)]
        cv2.line(drawn, ends[0], ends[1], 255, max(1, round(float(width))), cv2.LINE_AA, 4)
    return drawn > 100


def _crack(canvas: Canvas) -> tuple[Region, Plane]:
    """A thin, winding line, dark as a rule, sometimes with branches."""
    breadth = canvas.log_uniform(1.2, 5)
    wander = canvas.rng.uniform(0.1, 0.5)
    region = _path(canvas, length=canvas.log_uniform(25, 220), wander=wander, breadth=breadth)
    relief = _sign(canvas, 0.9) * (1.4 + 0.3 * canvas.noise(6))
    return region, relief.astype(np.float32)


def _scratch(canvas: Canvas) -> tuple[Region, Plane]:
    """A straight or gently curved score: one groove or a bundle of them, bright as a rule."""
    rng = canvas.rng
    angle = canvas.direction()
    along, across = canvas.axes(angle, *canvas.place())
    half = canvas.log_uniform(20, 400)
    breadth = canvas.log_uniform(1.2, 12)
    across = across + float(rng.normal(0, 8)) * (along / 200) ** 2 + canvas.log_uniform(0.1, 1.5) * canvas.noise(40, 40)
    taper = np.sqrt((1 - (along / half) ** 2).clip(0))
    fray = 0.25 * canvas.noise(12, 3, angle)
    region = (np.abs(across) < breadth * taper * (1 + fray)) & (np.abs(along) < half)
    grooves = np.cos(across * canvas.log_uniform(0.3, 1.6) + rng.uniform(0, 6)) if breadth > 3 else 0.0
    gaps = (canvas.noise(30, 30) > rng.uniform(-3, -0.6)) | (rng.random() < 0.6)
    relief = _sign(canvas, 0.3) * (1.3 + 0.7 * grooves + 0.3 * canvas.noise(10, 1.5, angle))
    return region & gaps, relief.astype(np.float32)


def _patch(canvas: Canvas) -> tuple[Region, Plane]:
    """A large area that is darker or brighter, with a ragged rim and mottled inside."""
    size = canvas.log_uniform(12, 60)
    field = _blob(canvas, size * canvas.log_uniform(1, 3), size, canvas.rng.uniform(0.1, 0.5))
    mottle = canvas.rng.uniform(0, 0.5) * canvas.noise(canvas.log_uniform(2, 12))
    return field > 0, (_sign(canvas, 0.7) * (0.9 + mottle)).astype(np.float32)


def _inclusion(canvas: Canvas) -> tuple[Region, Plane]:
    """Foreign matter drawn out along the grain: a lens or a torn streak, often several side by side."""
    rng = canvas.rng
    breadth = canvas.log_uniform(1.5, 9)
    along, across = canvas.axes(canvas.grain + float(rng.normal(0, 0.05)), *canvas.place())
    length = breadth * canvas.log_uniform(3, 14)
    rim = canvas.rng.uniform(0.1, 0.5) * canvas.noise(max(4, length / 3), max(2, breadth))
    field = 1 + rim - np.abs(along / length) - (across / breadth) ** 2
    return field > 0, (_sign(canvas, 0.85) * (1.1 + 0.3 * canvas.noise(6, 2))).astype(np.float32)


def _chip(canvas: Canvas) -> tuple[Region, Plane]:
    """Material broken away: an angular piece with a bright flank and a dark one."""
    rng = canvas.rng
    size = canvas.log_uniform(6, 40)
    y, x = canvas.place()
    count = int(rng.integers(5, 11))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radii = size * rng.uniform(0.4, 1.2, count)
    corners = np.column_stack([x + radii * np.cos(angles), y + radii * np.sin(angles)]).round().astype(np.int32)
    drawn = np.zeros((canvas.height, canvas.width), np.uint8)
    cv2.fillPoly(drawn, [corners], 1)
    along, _ = canvas.axes(float(rng.uniform(0, 2 * np.pi)), y, x)
    relief = _sign(canvas, 0.6) * rng.uniform(0.4, 1.2) + 1.2 * np.tanh(along / size) + 0.5 * canvas.noise(3)
    return drawn > 0, relief.astype(np.float32)


def _texture(canvas: Canvas) -> tuple[Region, Plane]:
    """An area whose texture differs while its brightness hardly does: rough, torn, pitted or smeared."""
    rng = canvas.rng
    size = canvas.log_uniform(10, 50)
    field = _blob(canvas, size * canvas.log_uniform(1, 3), size, rng.uniform(0.1, 0.5))
    fine = canvas.log_uniform(1, 5)
    rough = canvas.noise(fine * canvas.log_uniform(1, 4), fine, canvas.direction())
    if rng.random() < 0.5:  # pits or flakes rather than waves
        rough = (np.maximum(rough, 0.3) * _sign(canvas, 0.5) * 1.6).astype(np.float32)
    return field > 0, (rough + rng.normal(0, 0.25)).astype(np.float32)


def _stain(canvas: Canvas) -> tuple[Region, Plane]:
    """Dried oil or water: smooth and faint, with a rim that is stronger than the middle."""
    rng = canvas.rng
    size = canvas.log_uniform(8, 50)
    field = _blob(canvas, size * canvas.log_uniform(1, 2), size, rng.uniform(0.03, 0.25))
    rim = rng.uniform(0.3, 1) * np.exp(-(((field - 0.08) / 0.08) ** 2))
    return field > 0, (_sign(canvas, 0.75) * (rng.uniform(0.1, 0.8) + rim)).astype(np.float32)


def _fray(canvas: Canvas) -> tuple[Region, Plane]:
    """A torn edge: splinters side by side, each of another length."""
    angle = canvas.direction()
    along, across = canvas.axes(angle, *canvas.place())
    length, breadth = canvas.log_uniform(6, 50), canvas.log_uniform(8, 60)
    ends = length * (0.3 + 0.5 * np.abs(canvas.noise(1000, canvas.log_uniform(1.5, 5), angle)))
    region = (np.abs(across) < breadth) & (along > 0) & (along < ends)
    relief = _sign(canvas, 0.6) * (1 + 0.8 * canvas.noise(length, 1.5, angle))
    return region, relief.astype(np.float32)


_DEFECTS: tuple[Callable[[Canvas], tuple[Region, Plane]], ...] = (
    _pit,
    _crack,
    _scratch,
    _patch,
    _inclusion,
    _chip,
    _texture,
    _stain,
    _fray,
)
_MOST = (6, 3, 3, 2, 7, 2, 2, 3, 2)  # of a kind in one image
