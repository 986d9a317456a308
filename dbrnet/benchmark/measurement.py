"""Several models measured in one run: latency, throughput, and the share of the roofline that each reaches."""

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dbrnet.benchmark.load_generator import Series, latency, offline, single_stream, spread, take_turns, times_as_fast
from dbrnet.benchmark.roofline import BYTES, higher, measure_peaks, roofline
from dbrnet.data.dataset import decode_image
from dbrnet.errors import UserError
from dbrnet.inference.runtimes import file_of, kind_of, open_model
from dbrnet.inference.runtimes.base import Model
from dbrnet.progress import progress
from dbrnet.records import Estimate, RooflineFacts, RuntimeSpeed, WorkFacts

OFFLINE_SHARE = 0.1  # of the measuring time, for each batch
NOISY = 0.10  # a spread of the blocks above it is a warning


@dataclass(frozen=True)
class Measured:
    """One model's speed, and every run that it follows from."""

    speed: RuntimeSpeed
    series: Series

    def row(self, name: str) -> dict[str, str]:
        """A row of `table`."""
        speed, batches = self.speed, self.speed.offline
        return {
            "runtime": name,
            "precision": speed.precision,
            "p50 ms": f"{speed.p50_ms:.1f}",
            "p90 ms": f"{speed.p90_ms:.1f}",
            "p99 ms": f"{speed.p99_ms:.1f}",
            "FPS": f"{speed.fps:.1f}",
            "images/s (batch)": f"{batches.images_per_second:.1f} ({batches.batch})" if batches else "",
            "file to file p50 ms": f"{speed.end_to_end.p50_ms:.1f}",
            "roofline / p50": f"{speed.roofline.share:.0%}" if isinstance(speed.roofline, RooflineFacts) else "",
        }

    def times_as_fast_as(self, other: "Measured") -> Estimate:
        """How many times as fast this one is; both come from one call of `measure`, whose blocks are side by side."""
        return times_as_fast(self.series.medians, other.series.medians)


def measure(
    models: Mapping[str, Model],
    files: Sequence[bytes],
    work: Mapping[str, WorkFacts],
    *,
    seconds: float,
    in_batches: Collection[str] = (),
) -> dict[str, Measured]:
    """Measure `models` on the encoded images `files`, all of one size, in turns, for `seconds` each.

    `work` is the work of each for one image, for its roofline. The models `in_batches` are measured offline too.
    """
    known = [models[name] for name in work]
    kinds, threads = [(model.device, model.precision) for model in known], known[0].threads
    peaks = measure_peaks(kinds, threads)
    series = take_turns({name: single_stream(model.predict, files) for name, model in models.items()}, seconds=seconds)
    peaks = higher(peaks, measure_peaks(kinds, threads))
    images = np.stack([decode_image(data, "the image") for data in files])
    batches = {
        name: offline(
            models[name].predict,
            images,
            seconds=OFFLINE_SHARE * seconds,
            image_bytes=BYTES["fp32"] * work[name].activations,
        )
        for name in progress(in_batches, len(in_batches), "batches")
    }
    measured = {}
    for name, model in models.items():
        summary = latency([run.predict for run in series[name].runs])
        least: RooflineFacts | str = "its work is not known"
        if name in work:
            peak = peaks[model.device, model.precision]
            least = peak if isinstance(peak, str) else roofline(work[name], model.precision, peak, summary.p50_ms)
        speed = RuntimeSpeed(
            **vars(summary),
            precision=model.precision,
            device=model.device,
            threads=model.threads,
            batch=1,
            end_to_end=latency([run.whole for run in series[name].runs]),
            offline=batches.get(name),
            roofline=least,
            warm_up=series[name].warm_up,
            block_spread=spread(series[name].medians),
        )
        measured[name] = Measured(speed, series[name])
    return measured


def noise(measured: Mapping[str, Measured]) -> str | None:
    """A warning where the machine was too busy for milliseconds to mean much, else None."""
    worst, noisiest = max(measured.items(), key=lambda item: item[1].speed.block_spread)
    if noisiest.speed.block_spread <= NOISY:
        return None
    return (
        f"a noisy machine: the blocks of {worst} lie {noisiest.speed.block_spread:.0%} apart (more than {NOISY:.0%}); "
        "trust the ratios' intervals, not the milliseconds, or measure again when it is idle"
    )


def durations(measured: Mapping[str, Measured]) -> str:
    """Every run as CSV, in the order of each runtime."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("runtime", "block", "predict_ms", "end_to_end_ms"))
    for name, model in measured.items():
        for number, block in enumerate(model.series.blocks):
            writer.writerows((name, number, f"{1000 * run.predict:.4f}", f"{1000 * run.whole:.4f}") for run in block)
    return text.getvalue()


def open_baselines(file: Path, runtimes: Sequence[str], threads: int) -> dict[str, Model]:
    """The comparison model in `file`, in each of `runtimes` that takes it; `UserError` where none does."""
    kind = kind_of(file)
    fitting = [name for name in runtimes if file_of(name) == kind]
    if not fitting:
        raise UserError(
            f"{file}: none of the runtimes measured here takes it ({', '.join(runtimes)}); "
            "compare with a model.pt or an exported .onnx, and see export.runtimes"
        )
    return {name: open_model(file, name, threads) for name in fitting}


def table(rows: Sequence[Mapping[str, str]]) -> str:
    """The `rows` under the keys of the first one, aligned for a terminal and valid as Markdown.

    The first column is aligned to the left, the others to the right.
    """
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    aligned = ([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in aligned)
