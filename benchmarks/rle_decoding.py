"""How fast run-length encoded rows are decoded, against a loop over the pixels and against parsing alone.

    python benchmarks/rle_decoding.py [train.csv]

Decodes every row of Severstal's train.csv (or of 172 generated rows) to a mask of 256 x 1600, with

    pixel loop   a loop over the runs, and in it one over the run's pixels, in memory that is allocated once
    decode       dbrnet.data.rle.decode: parses with numpy, checks the runs, writes each with one slice
    parse alone  np.fromstring on each row: no decoder built on numpy is faster

The ways take turns within each round, after it was checked that their masks are equal. Times are the process's
CPU time on one thread: other work on the machine does not count.
"""

import argparse
import csv
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet import provenance
from dbrnet.data import rle

HEIGHT, WIDTH = 256, 1600
ROUNDS = 9
GENERATED_ROWS = 172  # as in the archive that the project was measured on

_pixels = np.zeros(HEIGHT * WIDTH, bool)
_mask = _pixels.reshape(WIDTH, HEIGHT).T


def pixel_loop(row: str) -> NDArray[np.bool_]:
    """Nothing vectorised: one assignment a pixel."""
    _pixels.fill(False)
    numbers = [int(word) for word in row.split()]
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for pixel in range(start - 1, start - 1 + length):
            _pixels[pixel] = True
    return _mask


def decode(row: str) -> NDArray[np.bool_]:
    """As ingestion does it."""
    return rle.decode(row, HEIGHT, WIDTH)


def parse_alone(row: str) -> NDArray[np.int64]:
    """No mask at all, only the numbers."""
    return np.fromstring(row, np.int64, sep=" ")


WAYS: dict[str, Callable[[str], NDArray[np.generic]]] = {
    "pixel loop": pixel_loop,
    "decode": decode,
    "parse alone": parse_alone,
}


def read_rows(path: Path) -> list[str]:
    """The encodings of a train.csv of either form, without the empty ones."""
    with path.open(newline="") as file:
        return [row["EncodedPixels"] for row in csv.DictReader(file) if row["EncodedPixels"]]


def generate_rows(count: int) -> list[str]:
    """Rows with one to five ragged spots each, of about the size of Severstal's."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(count):
        mask = np.zeros((HEIGHT, WIDTH), np.uint8)
        for _ in range(rng.integers(1, 6)):
            center = (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)))
            axes = (int(rng.integers(5, 60)), int(rng.integers(20, 160)))
            cv2.ellipse(mask, center, axes, float(rng.integers(180)), 0, 360, 1, -1)
        rows.append(rle.encode((mask > 0) & (rng.random(mask.shape) > 0.0005)))
    return [row for row in rows if row]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Decode run-length encodings, and time it.")
    parser.add_argument("table", type=Path, nargs="?", help="Severstal's train.csv; else rows are generated")
    table = parser.parse_args().table
    rows = read_rows(table) if table else generate_rows(GENERATED_ROWS)
    for row in rows:
        assert np.array_equal(pixel_loop(row), decode(row)), "the decoders disagree"

    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(ROUNDS):
        for name, way in WAYS.items():
            start = time.process_time()
            for row in rows:
                way(row)
            seconds[name].append(time.process_time() - start)

    runs = sum(len(row.split()) // 2 for row in rows)
    pixels = sum(int(decode(row).sum()) for row in rows)
    hardware = provenance.hardware()
    print(f"{hardware.cpu}, {hardware.cores} cores, {hardware.system}")
    print(f"Python {platform.python_version()}, numpy {np.__version__}; one thread")
    print(f"{table.name if table else 'generated'}: {len(rows)} rows, {runs} runs, {pixels} pixels")
    print(f"{ROUNDS} rounds, ways in turn; all rows, CPU ms: median (fastest to slowest)")
    own = statistics.median(seconds["decode"])
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = f"({min(times) * 1e3:.1f} to {max(times) * 1e3:.1f})"
        print(f"{name:12} {median * 1e3:8.1f}  {spread:20} {median / own:6.1f} x decode's time")


if __name__ == "__main__":
    main()
