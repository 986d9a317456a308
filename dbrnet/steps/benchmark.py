"""Step 7: the speed of one image on this machine, in every runtime that it has."""

import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path

import cv2

from dbrnet.api import find_model_file
from dbrnet.benchmark.hardware import machine_state
from dbrnet.benchmark.measurement import Measured, durations, measure, noise, open_baselines, table
from dbrnet.benchmark.roofline import count_work
from dbrnet.config import BenchmarkParams
from dbrnet.data import open_dataset
from dbrnet.data.dataset import Dataset
from dbrnet.data.loading import zoomed_size
from dbrnet.data.split import Split, require_trained_on
from dbrnet.files import atomic_directory, require_apart, sha256_file, write_atomically
from dbrnet.inference.runtimes.base import Model
from dbrnet.models.cost import measure_cost
from dbrnet.models.saved import load_model
from dbrnet.provenance import available_cores, collect_provenance
from dbrnet.records import (
    WEIGHTS_FILE,
    AgainstSpeed,
    BenchmarkRecord,
    ChampionSpeed,
    ComparedSpeed,
    EvaluationRecord,
    ExportRecord,
    MachineStates,
    RuntimeParity,
    TrainRecord,
)
from dbrnet.reports.plots import latency_plot, speed_accuracy_plot
from dbrnet.steps.checks import open_champion, open_runtimes

log = logging.getLogger(__name__)

IMAGES = 12  # of the test split, in turn
AGAINST = " (against)"
CHAMPION = " (champion)"


def benchmark(
    params: BenchmarkParams,
    dataset: Path,
    split: Path,
    trained: Path,
    exported: Path,
    champion: Path,
    evaluated: Path,
    *,
    against: str | None = None,
    out: Path,
) -> None:
    """Measure the latency and throughput of export.runtimes and PyTorch on this machine, in turns.

    The champion, where there is one, takes its turn beside the candidate in the runtime of production.

    Real images of the test split, one after the other: from the image in memory to the answer in memory,
    and from the encoded file to the encoded mask; then in batches. Each is compared with the least time that
    the machine allows. Writes benchmark.json, durations.csv (every run), latency.png and, where the evaluate
    step knows the runtimes' accuracy, speed-accuracy.png under --out.
    """
    if against:
        require_apart(out, Path(against), "against")
    threads = params.threads or available_cores()
    data, export = open_dataset(dataset), ExportRecord.load(exported)
    require_trained_on(TrainRecord.load(trained), data, split)
    accuracy = EvaluationRecord.load(evaluated).runtimes
    files = _images(data, Split.load(split), params.size)
    network, meta = load_model(trained / WEIGHTS_FILE)
    inner_size = zoomed_size(*params.size, meta.zoom)
    work = count_work(network, *inner_size)
    candidates, missing = open_runtimes(export, trained, exported, threads=threads, beside=["pytorch-eager"])
    names = list(candidates)
    others, digest = _open_baselines(against, names, threads)
    baseline = open_champion(champion, export.deployed, threads=threads)
    champions = {export.deployed: baseline.model} if baseline and baseline.model else {}
    models, start = _side_by_side(candidates, others, champions), machine_state()
    measured = measure(models, files, dict.fromkeys(names, work), seconds=params.seconds, in_batches=names)
    speed: ChampionSpeed | None = None
    if baseline:
        compared = _compare(measured, CHAMPION).get(export.deployed)
        runtime = baseline.model.runtime if baseline.model else None
        speed = ChampionSpeed(**vars(baseline.facts), runtime=runtime, compared=compared)
    record = BenchmarkRecord(
        runtimes={name: measured[name].speed for name in names},
        not_available=missing,
        against=AgainstSpeed(model=against, sha256=digest, runtimes=_compare(measured, AGAINST)) if against else None,
        champion=speed,
        size=params.size,
        batch=1,
        threads=threads,
        images=len(files),
        complexity=measure_cost(network, *inner_size),
        work=work,
        machine=MachineStates(start=start, end=machine_state()),
        noise=noise(measured),
        model_sha256=export.model_sha256,
        provenance=collect_provenance(),
    )
    with atomic_directory(out, "benchmark") as folder:
        record.save(folder)
        write_atomically(folder / "durations.csv", durations(measured))
        _draw(folder, measured, accuracy, _title(record))
    _log(record, measured)


def _open_baselines(against: str | None, runtimes: list[str], threads: int) -> tuple[dict[str, Model], str]:
    """The model to compare with in those of the runtimes that take it, and its file's SHA-256."""
    if against is None:
        return {}, ""
    with tempfile.TemporaryDirectory() as scratch:
        file = find_model_file(against, Path(scratch))
        return open_baselines(file, runtimes, threads), sha256_file(file)


def _side_by_side(
    models: Mapping[str, Model], others: Mapping[str, Model], champions: Mapping[str, Model]
) -> dict[str, Model]:
    """Each model followed by its baselines, so that the blocks that are compared are neighbours in time."""
    groups = {"": models, AGAINST: others, CHAMPION: champions}
    return {name + suffix: group[name] for name in models for suffix, group in groups.items() if name in group}


def _compare(measured: Mapping[str, Measured], suffix: str) -> dict[str, ComparedSpeed]:
    """The baseline's speed by runtime, and how many times as fast the candidate is there."""
    return {
        name: ComparedSpeed(
            speed=measured[name + suffix].speed,
            times_as_fast=own.times_as_fast_as(measured[name + suffix]),
            pairs=len(own.series.blocks),
        )
        for name, own in measured.items()
        if name + suffix in measured
    }


def _images(data: Dataset, split: Split, size: tuple[int, int]) -> list[bytes]:
    """Images from all over the test split, encoded as their files are, at [height, width] `size`."""
    samples = split.samples(data, "test")
    number = min(IMAGES, len(samples))
    files = []
    for sample in (samples[place * len(samples) // number] for place in range(number)):
        path = data.root / sample.image
        if (sample.height, sample.width) == size:
            files.append(path.read_bytes())
            continue
        resized = cv2.resize(data.image(sample), size[::-1], interpolation=cv2.INTER_AREA)
        _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(resized, cv2.COLOR_RGB2BGR))
        files.append(encoded.tobytes())
    return files


def _draw(folder: Path, measured: Mapping[str, Measured], accuracy: Mapping[str, RuntimeParity], title: str) -> None:
    """The plots; the second has the runtimes of known accuracy, and is left out where none is known."""
    times = {name: [1000 * run.predict for run in one.series.runs] for name, one in measured.items()}
    write_atomically(folder / "latency.png", latency_plot(times, title))
    points = {name: (one.speed.fps, accuracy[name].miou) for name, one in measured.items() if name in accuracy}
    if points:
        write_atomically(folder / "speed-accuracy.png", speed_accuracy_plot(points, title))


def _title(record: BenchmarkRecord) -> str:
    height, width = record.size
    return f"{height}x{width}, batch 1, {record.threads} threads, {record.provenance.hardware.processors}"


def _log(record: BenchmarkRecord, measured: Mapping[str, Measured]) -> None:
    log.info("%s", _title(record))
    for line in table([one.row(name) for name, one in measured.items()]).splitlines():
        log.info("%s", line)
    for reason in record.not_available.values():
        log.info("left out: %s", reason)
    if against := record.against:
        for name, compared in against.runtimes.items():
            log.info("%s: %s times as fast as %s", name, compared.times_as_fast, against.model)
    if champion := record.champion:
        ratio = champion.compared.times_as_fast if champion.compared else None
        text = f"{ratio} times as fast as it" if ratio else champion.not_compared
        log.info("the champion, version %d: %s", champion.version, text)
    if record.noise:
        log.info("%s", record.noise)
