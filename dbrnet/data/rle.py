"""Run-length encoding as Severstal's train.csv has it: "start length start length ...".

Starts are 1-indexed and count column-major: down the first column, then down the second.
"""

import re

import numpy as np
from numpy.typing import NDArray

from dbrnet.errors import UserError

_WORD = np.dtype("<u8")  # eight pixels, one a byte, the first in the lowest byte
_ALL_PIXELS = np.uint64(0x0101010101010101)
_PIXELS_FROM = np.array([0x0101010101010101 << 8 * k & 2**64 - 1 for k in range(8)], _WORD)


class RleError(UserError):
    """An encoding that says nothing sensible; whoever read it adds the file and the row."""


def encode(mask: NDArray[np.bool_]) -> str:
    """Encode a mask [H, W] as maximal runs in ascending order; an empty mask gives an empty string."""
    pixels = np.zeros(mask.size + 2, np.int8)
    pixels[1:-1] = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(pixels)) + 1  # start, end, start, end, ...; the ends exclusive
    edges[1::2] -= edges[::2]
    return " ".join(map(str, edges.tolist()))


def decode(text: str, height: int, width: int) -> NDArray[np.bool_]:
    """Decode one row to a mask [H, W]. Raises `RleError` that says what is wrong with the runs."""
    return Decoder(height, width).decode(text)


class Decoder:
    """Decodes many rows of one image size in the same memory, which takes most of the time otherwise."""

    def __init__(self, height: int, width: int) -> None:
        self._size = height * width
        self._words = np.zeros(self._size // 8 + 1, _WORD)
        self._ramp = np.arange(self._words.size)
        self._mask = self._words.view(np.bool_)[: self._size].reshape(width, height).T

    def decode(self, text: str) -> NDArray[np.bool_]:
        """The mask [H, W] of one row, valid until the next call. Raises `RleError`.

        Works on words of eight pixels: first every word gets the state in which a scan enters it, then
        each start and end flips the pixels that come after it within its word.
        """
        self._words.fill(0)
        edges = _parse_edges(text, self._size)
        if edges.size:
            words = edges >> 3
            counts = words[1::2] - words[::2]  # words entered inside each run
            last = counts.cumsum()
            entered = np.repeat(words[::2] + 1 - (last - counts), counts)
            entered += self._ramp[: entered.size]
            self._words[entered] = _ALL_PIXELS
            np.bitwise_xor.at(self._words, words, _PIXELS_FROM[edges & 7])
        return self._mask


def _parse_edges(text: str, size: int) -> NDArray[np.int64]:
    """The 0-indexed start and exclusive end of each run, in turn, checked against `size` pixels."""
    if not text or text.isspace():
        return np.empty(0, np.int64)
    try:
        numbers = np.fromstring(text, np.int64, sep=" ")
    except ValueError:
        bad = next((word for word in text.split() if not re.fullmatch(r"[+-]?[0-9]+", word)), text)
        raise RleError(f"{bad[:40]!r} is not a whole number") from None
    if numbers.size % 2:
        raise RleError(f"{numbers.size} numbers are no pairs of start and length; the last length is missing")
    starts, lengths = numbers[::2], numbers[1::2]
    # Each number is bounded before any are added, so that no sum can wrap around.
    if numbers.min() < 1 or numbers.max() > size:
        raise RleError(_describe_out_of_range(starts, lengths, size))
    edges = numbers
    edges[::2] -= 1
    edges[1::2] += edges[::2]
    if edges[-1] > size or (edges[1:] < edges[:-1]).any():
        raise RleError(_describe_misplaced(edges, size))
    return edges


def _describe_out_of_range(starts: NDArray[np.int64], lengths: NDArray[np.int64], size: int) -> str:
    run = int(np.flatnonzero((np.minimum(starts, lengths) < 1) | (np.maximum(starts, lengths) > size))[0])
    start, length = int(starts[run]), int(lengths[run])
    if not 1 <= start <= size:
        return f"run {run + 1} starts at {start}, and starts go from 1 to {size}"
    return f"run {run + 1} has length {length}, and lengths go from 1 to {size}"


def _describe_misplaced(edges: NDArray[np.int64], size: int) -> str:
    starts, ends = edges[::2], edges[1::2]
    past = np.flatnonzero(ends > size)
    early = np.flatnonzero(starts[1:] < ends[:-1]) + 1
    if not early.size or (past.size and past[0] < early[0]):
        return f"run {past[0] + 1} ends at pixel {ends[past[0]]} of {size}"
    run = int(early[0])
    if starts[run] < starts[run - 1]:
        return f"run {run + 1} starts at {starts[run] + 1}, before run {run}; starts must ascend"
    return f"run {run + 1} starts at {starts[run] + 1} and overlaps run {run}, which ends at {ends[run - 1]}"
