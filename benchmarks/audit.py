"""The time and memory of the audit on generated strips of 256x1600.

    python benchmarks/audit.py --images 1000 4000

Images are streaks and grain under uneven light; every fifth is a rotated or mirrored copy. Making them does not count.
Each count runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from dbrnet.audit.fingerprint import take_fingerprints
from dbrnet.audit.grouping import find_groups
from dbrnet.audit.matching import SYMMETRIES, find_candidates
from dbrnet.data.dataset import Card, Dataset, Sample
from dbrnet.provenance import hardware

SIZE = 256, 1600
COPIES = 5  # every fifth image is a copy


def strip(seed: int) -> np.ndarray:
    """A random strip: streaks and grain under uneven light."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.normal(size=(16, 60)).astype(np.float32), SIZE[::-1], interpolation=cv2.INTER_CUBIC)
    grain = cv2.GaussianBlur(rng.normal(size=SIZE).astype(np.float32), (0, 0), sigmaX=3, sigmaY=1)
    return np.clip(110 + 18 * coarse + 40 * grain, 0, 255).astype(np.uint8)


def write(folder: Path, count: int) -> Dataset:
    """A dataset of `count` images; its masks are not read by the search and are left out."""
    (folder / "images").mkdir()
    samples = []
    for index in range(count):
        original = index - 1 if index % COPIES == COPIES - 1 else index
        symmetry = SYMMETRIES[(index * 2) % 8] if original != index else SYMMETRIES[0]
        file = f"images/{index:06}.jpg"
        cv2.imwrite(str(folder / file), np.ascontiguousarray(symmetry.apply(strip(original))))
        samples.append(Sample(f"{index:06}", file, "", *SIZE, (), f"{index:06}", f"{index}", f"{index}"))
    card = Card(
        *("made", "Made", (), "", "", "", "", ""),
        notes=(),
        images=count,
        groups=count,
        images_by_class={},
        pixel_shares={},
        content_hash="",
    )
    return Dataset(folder, card, tuple(samples))


def measure(dataset: Dataset) -> tuple[float, float, float, int, float]:
    """Seconds for decoding, for searching, and for all; the groups; and the peak memory in MiB."""
    began = time.perf_counter()
    fingerprints = take_fingerprints(dataset)
    decoded = time.perf_counter()
    find_candidates(fingerprints)
    searched = time.perf_counter()
    groups = find_groups(fingerprints)  # searches again
    total = time.perf_counter() - began - (searched - decoded)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return decoded - began, searched - decoded, total, groups.count, peak


def main() -> None:
    """Print one line a count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 1000, 2000])
    options = parser.parse_args()
    machine = hardware()
    print(f"{machine.cpu}, {machine.cores} cores")
    for count in options.images:
        with tempfile.TemporaryDirectory() as folder:
            dataset = write(Path(folder), count)
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                decoding, searching, total, groups, peak = process.submit(measure, dataset).result()
        print(
            f"{count} images: {total:.1f} s (decoding {decoding:.1f}, searching {searching:.1f}), "
            f"{groups} groups of {count - count // COPIES}, peak {peak:.0f} MiB"
        )


if __name__ == "__main__":
    main()
