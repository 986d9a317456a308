"""The speed of ingestion, compared with decoding alone, and its memory.

    python benchmarks/ingestion.py [--images 400] [--rounds 3]

Generates images of 256 x 1600 in Severstal's layout (steel-strip images side by side, cut to size, with a
row of run-length encoded defect in every second), and times, in turns within each round,

    decoding alone   every image read and decoded to RGB by as many threads as ingestion takes
    ingestion        `build_dataset`: decoded, checked, hashed, masks decoded and encoded, everything written
    with image_stats  the same, then each image's features for `dbrnet drift`, as the ingest step does it

All as images a second of wall time and of the process's CPU time on all its threads: other work on the
machine takes from the first alone, so on a busy machine the second is the one to compare. Then each is run in
a process of its own on a quarter of the images and on all of them: the peak of memory should not differ.
"""

import argparse
import csv
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from dbrnet import provenance
from dbrnet.data import rle
from dbrnet.data.dataset import decode_image
from dbrnet.data.image_stats import write_image_stats
from dbrnet.data.synthetic import generate
from dbrnet.data.writer import build_dataset
from dbrnet.parallel import ordered_map

HEIGHT, WIDTH = 256, 1600


def make_source(folder: Path, images: int) -> None:
    """Severstal's layout with `images` images, of which 32 differ."""
    generate(folder / "strips", images=32)
    strips = [cv2.imread(str(path)) for path in sorted((folder / "strips/train_images").iterdir())]
    rng = np.random.default_rng(0)
    (folder / "train_images").mkdir()
    encoded = []
    for start in range(32):
        chosen = [strips[(start + place) % 32] for place in range(8)]
        rows = [np.hstack([part for part in chosen[row : row + 4] if part is not None]) for row in (0, 4)]
        image = np.vstack(rows)[:HEIGHT, :WIDTH]
        encoded.append(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())
    with (folder / "train.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("ImageId", "ClassId", "EncodedPixels"))
        for number in range(images):
            name = f"{number:06d}.jpg"
            (folder / "train_images" / name).write_bytes(encoded[number % 32])
            if number % 2:
                mask = np.zeros((HEIGHT, WIDTH), np.uint8)
                center = (int(rng.integers(WIDTH)), int(rng.integers(HEIGHT)))
                cv2.ellipse(mask, center, (60, 90), float(rng.integers(180)), 0, 360, 1, -1)
                writer.writerow((name, number % 4 + 1, rle.encode(mask > 0)))


def decode_alone(source: Path) -> int:
    """Read and decode every image; how many there are."""
    files = sorted((source / "train_images").iterdir())
    return sum(1 for _ in ordered_map(lambda path: decode_image(path.read_bytes(), path).size, files))


def ingest(source: Path) -> int:
    """Ingestion alone; how many images there are."""
    return build_dataset("severstal", source, Path(tempfile.mkdtemp(dir=source))).card.images


def ingest_and_measure(source: Path) -> int:
    """Ingestion and the table of the images' image_stats; how many images there are."""
    dataset = build_dataset("severstal", source, Path(tempfile.mkdtemp(dir=source)))
    write_image_stats(dataset, {})
    return dataset.card.images


WAYS: dict[str, Callable[[Path], int]] = {
    "decoding alone": decode_alone,
    "ingestion": ingest,
    "with image_stats": ingest_and_measure,
}


def peak_mib(way: str, source: Path) -> float:
    """The peak of memory of a process that does nothing else, in MiB."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        process.submit(WAYS[way], source).result()
        return process.submit(resource.getrusage, resource.RUSAGE_SELF).result().ru_maxrss / 1024


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time ingestion against decoding alone.")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    hardware = provenance.hardware()
    print(f"{hardware.cpu}, {hardware.cores} cores, {hardware.system}")
    with tempfile.TemporaryDirectory() as folder:
        sources = {}
        for images in (given.images // 4, given.images):
            sources[images] = Path(folder, str(images))
            make_source(sources[images], images)
        source = sources[given.images]
        wall: dict[str, list[float]] = {way: [] for way in WAYS}
        cpu: dict[str, list[float]] = {way: [] for way in WAYS}
        for _ in range(given.rounds):
            for way, run in WAYS.items():
                started, spent = time.perf_counter(), time.process_time()
                images = run(source)
                wall[way].append(images / (time.perf_counter() - started))
                cpu[way].append(images / (time.process_time() - spent))
        print(f"{given.images} images of {HEIGHT}x{WIDTH}; {given.rounds} rounds, ways in turn: medians")
        for way in WAYS:
            peaks = " and ".join(f"{peak_mib(way, path):.0f} MiB for {n}" for n, path in sources.items())
            print(
                f"{way:15} {statistics.median(wall[way]):7.0f} images/s of wall time, "
                f"{statistics.median(cpu[way]):6.0f} per CPU second; peak {peaks}"
            )
        for one, other in (("ingestion", "decoding alone"), ("with image_stats", "ingestion")):
            shares = [statistics.median(took[one]) / statistics.median(took[other]) for took in (wall, cpu)]
            print(f"{one} / {other}: {shares[0]:.2f} by wall time, {shares[1]:.2f} by CPU time")


if __name__ == "__main__":
    main()
