"""Candidates for near-duplicates, and the test of whether two images are such.

An image may be laid in eight ways, the symmetries of the square: a plate lies turned, or the file was flipped.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from dbrnet.audit.fingerprint import COARSE_SIDE, Fingerprints, Texture
from dbrnet.data.dataset import Mask
from dbrnet.evaluation.metrics import IGNORE_INDEX

NEIGHBOURS = 8  # candidates of each image
LEAST_COARSE = 0.5  # correlation of the coarse vectors below which nothing is a candidate
SAME = 0.8  # correlation of the fine textures from which two images are near-duplicates
LEAST_PASTED = 0.35  # correlation below which the blocks are not compared
PASTED = 0.45  # share of the blocks that must coincide where the whole does not
BLOCK = 12  # pixels of the texture
COINCIDE = 0.85  # correlation of two blocks
LEAST_TEXTURE = 150.0  # variance of a block; a flatter one coincides with nothing
WINDOW = 0.75  # of the smaller image's sides: the part that is searched for in the larger one
LEAST_COMMON = 0.25  # share of the larger image's area that the window must cover to prove anything
NEAR = 6  # pixels of the texture: a smaller shift counts as none
DISTINCT = 0.75  # 1 - correlation of the pair, at most this multiple of that of an image shifted on itself
QUERIES = 512  # images searched for at a time


@dataclass(frozen=True)
class Symmetry:
    """One of the eight ways to lay an image: mirrored left to right or not, then turned by 0 to 3 quarters.

    Turns are counter-clockwise.
    """

    mirrored: bool
    quarters: int

    def apply(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array [H, W, ...] laid this way; a view."""
        return np.rot90(array[:, ::-1] if self.mirrored else array, self.quarters)

    @property
    def inverse(self) -> "Symmetry":
        """The symmetry that undoes this one; a mirrored one undoes itself."""
        return self if self.mirrored else SYMMETRIES[-self.quarters % 4]

    def __str__(self) -> str:
        turned = f"turned {90 * self.quarters}°" if self.quarters else ""
        return ", ".join(filter(None, ("mirrored" if self.mirrored else "", turned))) or "as it is"


SYMMETRIES = tuple(Symmetry(mirrored, quarters) for mirrored in (False, True) for quarters in range(4))


@dataclass(frozen=True)
class Candidate:
    """Two images, by their indices among the fingerprints, whose coarse vectors are alike.

    The second one looks like the first when laid by `symmetry`.
    """

    first: int
    second: int
    symmetry: Symmetry
    score: float  # correlation of the coarse vectors

    @property
    def turned(self) -> "Candidate":
        """The same pair, the other way round."""
        return Candidate(self.second, self.first, self.symmetry.inverse, self.score)


@dataclass(frozen=True)
class Alignment:
    """How the second image of a pair lies on the first, and how alike their textures then are."""

    symmetry: Symmetry
    shift: tuple[int, int]  # row and column of the first image at which the second one's corner lies
    score: float  # correlation of the fine textures, -1 to 1
    common: float  # share of the overlap's blocks that coincide; 0 where the score is decisive
    elsewhere: float  # highest correlation of the smaller image with itself when shifted; 1 if not measured

    @property
    def alike(self) -> bool:
        """Whether the whole coincides, or a good part of it exactly: the rest was pasted over."""
        return self.score >= SAME or self.common >= PASTED

    @property
    def is_match(self) -> bool:
        """Whether the two are near-duplicates.

        They must be alike, and more so than one of them is like itself elsewhere: two plates with one
        embossed pattern fit each other as well as a plate fits itself one pitch further.
        """
        return self.alike and 1 - self.score <= DISTINCT * (1 - self.elsewhere)

    def lay(self, mask: Mask, shape: tuple[int, int]) -> Mask:
        """The second image's mask [H, W] as a mask of the first, `shape`; IGNORE_INDEX where it does not reach."""
        laid = self.symmetry.apply(mask)
        result = np.full(shape, IGNORE_INDEX, np.uint8)
        here, there = _overlap(shape, laid.shape, self.shift)
        result[here] = laid[there]
        return result


def find_candidates(fingerprints: Fingerprints) -> list[Candidate]:
    """Each image's `NEIGHBOURS` nearest by coarse vectors under all eight symmetries, the likeliest pair first."""
    indices = np.arange(len(fingerprints.samples))
    best: dict[tuple[int, int], Candidate] = {}
    for found in nearest(fingerprints, indices, indices, NEIGHBOURS):
        candidate = found if found.first < found.second else found.turned
        pair = candidate.first, candidate.second
        if best.setdefault(pair, candidate).score < candidate.score:
            best[pair] = candidate
    return sorted(best.values(), key=lambda candidate: (-candidate.score, candidate.first, candidate.second))


def nearest(
    fingerprints: Fingerprints,
    queries: NDArray[np.intp],
    among: NDArray[np.intp],
    count: int,
    least: float = LEAST_COARSE,
) -> Iterator[Candidate]:
    """For each query, as the first of a pair, its `count` nearest others.

    Neighbours whose correlation is below `least` are left out. All are compared with all, in blocks: time grows
    with the square of the number of images, memory with the number.
    """
    coarse = torch.from_numpy(fingerprints.coarse)
    others = torch.from_numpy(among)
    squares = fingerprints.coarse[among].reshape(-1, COARSE_SIDE, COARSE_SIDE).transpose(1, 2, 0)
    laid = []  # [COARSE_SIDE ** 2, N] for each symmetry
    for symmetry in SYMMETRIES:
        vectors = np.ascontiguousarray(symmetry.apply(squares).transpose(2, 0, 1)).reshape(len(among), -1)
        laid.append(torch.from_numpy(vectors).T.contiguous())
    for block in torch.from_numpy(queries).split(QUERIES):
        scores = torch.full((len(block), len(others)), -2.0)
        which = torch.zeros(scores.shape, dtype=torch.uint8)
        for number, matrix in enumerate(laid):
            correlation = coarse[block] @ matrix
            better = correlation > scores
            scores = torch.where(better, correlation, scores)
            which[better] = number
        scores[block[:, None] == others[None, :]] = -2.0  # itself
        top = scores.topk(min(count, len(others)), dim=1)
        for row, query in enumerate(block.tolist()):
            for score, column in zip(top.values[row].tolist(), top.indices[row].tolist(), strict=True):
                if score >= least:
                    yield Candidate(query, int(others[column]), SYMMETRIES[int(which[row, column])], score)


def align(fingerprints: Fingerprints, candidate: Candidate) -> Alignment:
    """Lay the second image on the first where their textures coincide best, and measure how well they do.

    The middle of the smaller image is searched for everywhere in the larger one.
    """
    first = fingerprints.textures[candidate.first]
    second = np.ascontiguousarray(candidate.symmetry.apply(fingerprints.textures[candidate.second]))
    small, large = (second, first) if second.size < first.size else (first, second)
    sides = [round(WINDOW * min(pair)) for pair in zip(small.shape, large.shape, strict=True)]
    if sides[0] * sides[1] < LEAST_COMMON * large.size:
        return Alignment(candidate.symmetry, (0, 0), 0.0, 0.0, 1.0)
    top, left = ((whole - side) // 2 for whole, side in zip(small.shape, sides, strict=True))
    window = small[top : top + sides[0], left : left + sides[1]]
    score, row, column = _best_fit(window, large, top, left)
    corner = (rows, columns) = (row - top, column - left) if small is second else (top - row, left - column)
    common = _common(first, second, corner) if LEAST_PASTED <= score < SAME else 0.0
    shift = round(rows / fingerprints.scale), round(columns / fingerprints.scale)
    alignment = Alignment(candidate.symmetry, shift, score, common, elsewhere=1.0)
    if not alignment.alike:
        return alignment
    itself = cv2.matchTemplate(small, window, cv2.TM_CCOEFF_NORMED)
    itself[max(0, top - NEAR) : top + NEAR + 1, max(0, left - NEAR) : left + NEAR + 1] = -1
    return replace(alignment, elsewhere=_peak(itself)[0])


def _best_fit(window: Texture, large: Texture, top: int, left: int) -> tuple[float, int, int]:
    """How well the window fits, and where: first tried in its own place, which is the common case."""
    here = large[top : top + window.shape[0], left : left + window.shape[1]]
    if here.shape == window.shape:
        score, _, _ = _peak(cv2.matchTemplate(here, window, cv2.TM_CCOEFF_NORMED))
        if score >= SAME:
            return score, top, left
    return _peak(cv2.matchTemplate(large, window, cv2.TM_CCOEFF_NORMED))


def _overlap(
    first: tuple[int, ...], second: tuple[int, ...], corner: tuple[int, int]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where arrays of these shapes overlap: in the first, and in the second with its corner at `corner`."""
    pairs = list(zip(first, second, corner, strict=True))
    here = [slice(max(0, start), min(whole, start + side)) for whole, side, start in pairs]
    there = [slice(max(0, -start), min(side, whole - start)) for whole, side, start in pairs]
    return (here[0], here[1]), (there[0], there[1])


def _common(first: Texture, second: Texture, corner: tuple[int, int]) -> float:
    """The share of the overlap's blocks in which two textures coincide, the second's corner lying at `corner`."""
    here, there = _overlap(first.shape, second.shape, corner)
    one, other = first[here].astype(np.float32), second[there].astype(np.float32)

    def means(values: NDArray[np.float32]) -> NDArray[np.float32]:
        inner = slice(BLOCK // 2, -(BLOCK // 2), BLOCK // 2)
        return cv2.boxFilter(values, -1, (BLOCK, BLOCK))[inner, inner].astype(np.float32)

    mean, other_mean = means(one), means(other)
    variance, other_variance = means(one * one) - mean**2, means(other * other) - other_mean**2
    covariance = means(one * other) - mean * other_mean
    textured = np.minimum(variance, other_variance) > LEAST_TEXTURE
    coincide = covariance > COINCIDE * np.sqrt(np.maximum(variance * other_variance, 1))
    return float((coincide & textured).mean())


def _peak(correlation: NDArray[Any]) -> tuple[float, int, int]:
    """The highest value with its row and column; a window without texture correlates with nothing."""
    _, score, _, (column, row) = cv2.minMaxLoc(np.nan_to_num(correlation, posinf=0.0, neginf=0.0))
    return score, row, column
