"""The time and memory of the intervals of a comparison, by the number of groups.

    python benchmarks/bootstrap.py --groups 200 1000 5000 --classes 5

Every figure of a candidate, of a champion and of their difference, from 10,000 resamples of random counts.
Each count runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import multiprocessing
import resource
import statistics
import time

import numpy as np

from dbrnet.evaluation.bootstrap import RESAMPLES
from dbrnet.evaluation.defect_metrics import DefectCounts
from dbrnet.evaluation.figures import compare
from dbrnet.evaluation.predictions import Evaluation, ImageResult
from dbrnet.provenance import hardware


def random_evaluation(groups: int, classes: int, seed: int) -> Evaluation:
    """One image per group, of `classes` defect classes; some images lack a class, some have no defect."""
    random = np.random.default_rng(seed)
    images = []
    for number in range(groups):
        present = random.random(classes + 1) < 0.4
        confusion = random.integers(0, 2000, (classes + 1, classes + 1)) * present[:, None]
        confusion[0, 0] = 40_000
        true = random.integers(0, 4, (classes, 3)) * present[1:, None]
        predicted, outline = random.integers(0, 6, classes), random.integers(0, 400, classes)
        defects = DefectCounts(true, true // 2, predicted, predicted // 2, outline, outline // 2, outline, outline // 3)
        images.append(ImageResult(f"{number}", f"{number}", confusion, 1.0, defects))
    names = ("background", *(f"class {index}" for index in range(classes)))
    return Evaluation(names, tuple(images))


def peak_memory() -> float:
    """Of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(groups: int, classes: int, rounds: int, answers: "multiprocessing.Queue[list[float]]") -> None:
    """Put the memory in MiB that comparing takes, and the seconds of each round, into `answers`."""
    candidate, champion = (random_evaluation(groups, classes, seed) for seed in (0, 1))
    before, seconds = peak_memory(), []
    for _ in range(rounds):
        began = time.perf_counter()
        compare(candidate, champion, confidence=0.95, runtime="", seen=None)
        seconds.append(time.perf_counter() - began)
    answers.put([peak_memory() - before, *seconds])


def main() -> None:
    """Print one line a number of groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", type=int, nargs="+", default=[50, 200, 1000, 5000])
    parser.add_argument("--classes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    machine = hardware()
    print(f"{machine.cpu}, {machine.cores} cores; {RESAMPLES:,} resamples, {options.classes} classes")
    for groups in options.groups:
        context = multiprocessing.get_context("spawn")
        answers: multiprocessing.Queue[list[float]] = context.Queue()
        process = context.Process(target=measure, args=(groups, options.classes, options.rounds, answers))
        process.start()
        memory, *seconds = answers.get()
        process.join()
        print(
            f"{groups} groups: median {statistics.median(seconds):.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f} in {len(seconds)} rounds), {memory:.0f} MiB"
        )


if __name__ == "__main__":
    main()
