"""Step 7: the speed of one image on this machine, in every runtime that it has."""

import logging
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2

from dbrnet.benchmark.hardware import describe_machine, machine_state
from dbrnet.benchmark.latency import Ratio
from dbrnet.benchmark.measurement import Measured, durations, measure, noise, open_baselines, table
from dbrnet.benchmark.roofline import count_work
from dbrnet.config import BenchmarkParams
from dbrnet.data import open_dataset
from dbrnet.data.dataset import Dataset, Sample
from dbrnet.data.split import Split, require_trained_on
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, read_json, require_apart, sha256_file, write_atomically, write_json
from dbrnet.inference.runtimes.base import Model, NotAvailableError
from dbrnet.inference.runtimes.registry import open_all, open_fitting
from dbrnet.models.cost import measure_cost
from dbrnet.models.saved import load_model
from dbrnet.provenance import available_cores, collect_provenance
from dbrnet.registry.model_file import find_model_file
from dbrnet.reports.latency_plots import latency_plot, speed_accuracy_plot

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
    """Measure how fast images are answered on this machine: export.runtimes and PyTorch, in turns.

    The champion, where there is one, takes its turn beside the candidate in the runtime that the line uses.

    Real images of the test split, one after the other: from the image in memory to the answer in memory,
    and from the encoded file to the encoded mask; then in batches. Each is held against the least time that
    the machine would allow. Writes benchmark.json, durations.csv (every run), latency.png and, where the
    evaluate step knows the runtimes' accuracy, speed-accuracy.png under --out.
    """
    if against:
        require_apart(out, Path(against), "against")
    threads = params.threads or available_cores()
    accuracy = read_json(evaluated / "metrics.json").get("runtimes", {})
    data = open_dataset(dataset)
    require_trained_on(read_json(trained / "train.json"), data, split)
    files = _images(data, Split.load(split), params.size)
    network, meta = load_model(trained / "model.pt")
    inner_size = meta.image_size or params.size
    work = count_work(network, *inner_size)
    export = read_json(exported / "export.json")
    models, missing = open_all(["pytorch-eager", *export["runtimes"]], trained, exported, threads)
    deployed = export["runtimes"][0]
    if deployed in missing:
        raise UserError(f"{missing[deployed]}; it is the first of export.runtimes, which the line runs")
    baselines, baseline_digest = _open_baselines(against, list(models), threads)
    holder, holder_facts = _open_champion(champion, deployed, threads)
    start = machine_state()
    measured = measure(
        _side_by_side(models, baselines, {deployed: holder} if holder else {}),
        files,
        dict.fromkeys(models, work),
        seconds=params.seconds,
        in_batches=list(models),
    )
    compared = {name: _compare(measured, name, AGAINST) for name in baselines}
    if holder and holder_facts:
        holder_facts |= _compare(measured, deployed, CHAMPION)
    figures = {
        "runtimes": {name: measured[name].to_dict() for name in models},
        "not_available": missing,
        "against": {"model": against, "sha256": baseline_digest, "runtimes": compared} if against else None,
        "champion": holder_facts,
        "size": list(params.size),
        "batch": 1,
        "threads": threads,
        "images": len(files),
        "complexity": asdict(measure_cost(network, *inner_size)),
        "work": asdict(work),
        "machine": {"start": start, "end": machine_state()},
        "noise": noise(measured),
        "model_sha256": export["model_sha256"],
        "provenance": collect_provenance(),
    }
    title = f"{params.size[0]}x{params.size[1]}, batch 1, {threads} threads, {describe_machine()}"
    with atomic_directory(out, "benchmark") as folder:
        write_json(folder / "benchmark.json", figures)
        write_atomically(folder / "durations.csv", durations(measured))
        _draw(folder, measured, accuracy, title)
    _tell(measured, figures, title)


def _open_baselines(against: str | None, runtimes: list[str], threads: int) -> tuple[dict[str, Model], str | None]:
    """The model to compare with in those of the runtimes that take it, and its file's SHA-256."""
    if against is None:
        return {}, None
    with tempfile.TemporaryDirectory() as scratch:
        file = find_model_file(against, Path(scratch))
        return open_baselines(file, runtimes, threads), sha256_file(file)


def _open_champion(folder: Path, runtime: str, threads: int) -> tuple[Model | None, dict[str, Any] | None]:
    """The champion's model, and what is said of it; None and None where there is no champion yet."""
    facts = read_json(folder / "champion.json")
    if facts["version"] is None:
        return None, None
    known = {"version": facts["version"], "sha256": facts["sha256"]}
    try:
        model = open_fitting(folder / "model.onnx", runtime, threads)
    except NotAvailableError as error:
        return None, known | {"not_compared": str(error)}
    return model, known | {"runtime": model.runtime}


def _side_by_side(models: Mapping[str, Model], *baselines: Mapping[str, Model]) -> dict[str, Model]:
    """Each model followed by its baselines, so that the blocks that are compared are neighbours in time."""
    ordered = {}
    for name, model in models.items():
        ordered[name] = model
        for suffix, some in zip((AGAINST, CHAMPION), baselines, strict=True):
            if name in some:
                ordered[name + suffix] = some[name]
    return ordered


def _images(data: Dataset, split: Split, size: tuple[int, int]) -> list[bytes]:
    """Images from all over the test split, encoded as their files are, at [height, width] `size`."""
    samples = split.samples(data, "test")
    number = min(IMAGES, len(samples))
    return [_at_size(data, samples[place * len(samples) // number], size) for place in range(number)]


def _at_size(data: Dataset, sample: Sample, size: tuple[int, int]) -> bytes:
    path = data.root / sample.image
    if (sample.height, sample.width) == size:
        return path.read_bytes()
    resized = cv2.resize(data.image(sample), size[::-1], interpolation=cv2.INTER_AREA)
    _, encoded = cv2.imencode(path.suffix, cv2.cvtColor(resized, cv2.COLOR_RGB2BGR))
    return encoded.tobytes()


def _compare(measured: Mapping[str, Measured], name: str, suffix: str) -> dict[str, Any]:
    """The baseline's figures beside the runtime `name`, and how many times as fast this one is."""
    other = measured[name + suffix]
    return other.to_dict() | {"times_as_fast": asdict(measured[name].times_as_fast_as(other))}


def _draw(
    folder: Path, measured: Mapping[str, Measured], accuracy: Mapping[str, Mapping[str, float]], title: str
) -> None:
    """The plots; runtimes of unknown accuracy are left out of the second, and it where none is known."""
    times = {name: [1000 * run.predict for run in one.series.runs] for name, one in measured.items()}
    write_atomically(folder / "latency.png", latency_plot(times, title))
    known = [name for name in measured if name in accuracy]
    points = {name: (measured[name].series.predict.fps, accuracy[name]["miou"]) for name in known}
    if points:
        write_atomically(folder / "speed-accuracy.png", speed_accuracy_plot(points, title))


def _tell(measured: Mapping[str, Measured], figures: dict[str, Any], title: str) -> None:
    log.info("%s", title)
    for line in table([one.row(name) for name, one in measured.items()]).splitlines():
        log.info("%s", line)
    for reason in figures["not_available"].values():
        log.info("left out: %s", reason)
    against = figures["against"] or {"runtimes": {}}
    for name, other in against["runtimes"].items():
        log.info("%s: %s times as fast as %s", name, Ratio(**other["times_as_fast"]), against["model"])
    holder = figures["champion"]
    if holder:
        said = holder.get("not_compared") or f"{Ratio(**holder['times_as_fast'])} times as fast as it"
        log.info("the champion, version %d: %s", holder["version"], said)
    if figures["noise"]:
        log.info("%s", figures["noise"])
