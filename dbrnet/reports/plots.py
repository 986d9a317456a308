"""Every plot, in one style: SVG for the evaluation report, PNG for files of their own."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from dbrnet.records import format_value
from dbrnet.reports.html import COLORS

INK, FAINT, ACCENT, ALARM = (COLORS[name] for name in ("ink", "faint", "accent", "alarm"))
STYLE: Any = {
    "font.size": 11,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "dbrnet",  # equal plots, equal bytes
}
STYLED = mpl.rc_context(STYLE)
LATENCY_BINS = 120
DRIFT_BINS = 24


@STYLED
def confusion_plot(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> bytes:
    """An SVG of the matrix [C, C], each row (a true class) in % of its pixels, blank where it has none."""
    counts = np.asarray(confusion)
    totals = counts.sum(axis=1, keepdims=True)
    percent = np.divide(100.0 * counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    side = 2.0 + 0.68 * len(names)
    figure = Figure(figsize=(side, side * 0.86), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(percent.shape):
        if totals[row, 0]:
            value = percent[row, column]
            color = "white" if value > 55 else INK
            text = "0" if value == 0 else "<0.1" if value < 0.1 else f"{value:.1f}"
            axes.text(column, row, text, ha="center", va="center", color=color)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.set_xticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    return _file(figure, "svg")


@STYLED
def training_curves(history: Sequence[Mapping[str, float]]) -> bytes:
    """An SVG of loss, validation mIoU and learning rate by iteration.

    Each row of `history` holds `step`, `loss`, `val_miou` and `learning_rate`.
    """
    steps = [row["step"] for row in history]
    figure = Figure(figsize=(5.0, 4.8), layout="constrained")
    loss, miou, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.4))
    _curve(loss, steps, [row["loss"] for row in history], "training loss")
    values = [100 * row["val_miou"] for row in history]
    best = int(np.argmax(values))
    text = format_value(values[best] / 100, "share")
    _curve(miou, steps, values, f"validation mIoU, %: best {text}, iteration {steps[best]:g}")
    miou.plot(steps[best], values[best], "o", color=ACCENT)
    _curve(rate, steps, [row["learning_rate"] for row in history], "learning rate")
    rate.set_xlabel("iteration")
    return _file(figure, "svg")


@STYLED
def latency_plot(durations: Mapping[str, Sequence[float]], title: str) -> bytes:
    """A PNG with a row for each runtime: all its durations in milliseconds, and the tail one by one."""
    every = np.concatenate([np.asarray(times) for times in durations.values()])
    low, high = every.min() * 0.9, every.max() * 1.25
    edges = np.geomspace(low, high, LATENCY_BINS + 1)
    figure = Figure(figsize=(9.0, 1.3 + 0.85 * len(durations)), layout="constrained")
    axes = figure.add_subplot()
    for row, times in enumerate(durations.values()):
        _distribution(axes, -row, np.asarray(times), edges)
    axes.set_yticks([-row for row in range(len(durations))], list(durations))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    _logarithmic(axes, low, high)
    axes.set_xlabel("milliseconds per image (logarithmic); the marks below: the slowest tenth, one by one")
    axes.set_title(title, loc="left", fontsize=11)
    return _file(figure, "png")


@STYLED
def speed_accuracy_plot(points: Mapping[str, tuple[float, float]], title: str) -> bytes:
    """A PNG of frames per second against test mIoU (a fraction): `points` holds both for each runtime."""
    speeds = np.array([speed for speed, _ in points.values()])
    scores = 100 * np.array([score for _, score in points.values()])
    figure = Figure(figsize=(7.5, 4.4), layout="constrained")
    axes = figure.add_subplot()
    _logarithmic(axes, speeds.min() * 0.8, speeds.max() * 1.5)
    margin = 0.6 * max(float(np.ptp(scores)), 1.0)
    axes.set_ylim(scores.min() - margin, scores.max() + margin)
    for place, name in enumerate(sorted(points, key=lambda name: points[name][0])):
        speed, score = points[name]
        axes.plot(speed, 100 * score, "o", color=ACCENT, markersize=7)
        level = 14 + 15 * (place % 3)  # neighbours' names stand apart
        axes.annotate(
            f"{name}, {speed:.0f}",
            (speed, 100 * score),
            (0, level if place % 2 else -level),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=9,
            arrowprops={"arrowstyle": "-", "color": FAINT, "shrinkA": 0, "shrinkB": 4},
        )
    axes.grid(axis="y", color=FAINT, linewidth=0.5)
    axes.set(xlabel="frames per second (logarithmic)", ylabel="test mIoU, %")
    axes.set_title(title, loc="left", fontsize=11)
    return _file(figure, "png")


@dataclass(frozen=True)
class Panel:
    """Two weighted samples of one feature; `verdict` stands beside the name, in red where `alarm`."""

    name: str
    unit: str
    reference: NDArray[np.float64]  # [N]
    reference_weights: NDArray[np.float64]  # [N], 1 together
    new: NDArray[np.float64]  # [M]
    new_weights: NDArray[np.float64]  # [M], 1 together
    verdict: str
    alarm: bool


@STYLED
def drift_plot(panels: Sequence[Panel], title: str) -> bytes:
    """A PNG with one histogram a feature: the champion's images filled, the new ones as a line."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.0 * columns, 0.9 + 2.5 * rows), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, panel in zip(axes, panels, strict=False):
        _histograms(place, panel)
    for place in axes[len(panels) :]:
        place.set_axis_off()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
    return _file(figure, "png")


def _curve(axes: Axes, steps: Sequence[float], values: Sequence[float], title: str) -> None:
    axes.plot(steps, values, color=ACCENT, linewidth=1.6, marker="." if len(steps) < 3 else "")
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.02)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)


def _distribution(axes: Axes, base: float, times: NDArray[np.float64], edges: NDArray[np.float64]) -> None:
    """A histogram on `base`, marks at p50 and p99, and a dot for each duration beyond p90."""
    counts, _ = np.histogram(times, edges)
    heights = base + 0.55 * counts / counts.max()
    axes.fill_between(edges, np.append(heights, base), base, step="post", color=ACCENT, alpha=0.35, linewidth=0)
    p50, p90, p99 = np.percentile(times, [50, 90, 99])
    tail = times[times > p90]
    axes.plot(tail, np.full(len(tail), base - 0.1), "|", color=INK, markersize=5, alpha=0.6)
    for rank, value, color, side, shift in ((50, p50, ACCENT, "right", -1), (99, p99, ALARM, "left", 1)):
        axes.vlines(value, base, base + 0.6, color=color, linewidth=1.6)
        axes.annotate(
            f"p{rank} {value:.1f}",
            (value, base + 0.6),
            (shift, 1),
            textcoords="offset points",
            ha=side,
            va="bottom",
            fontsize=9,
            color=color,
        )


def _histograms(axes: Axes, panel: Panel) -> None:
    color = ALARM if panel.alarm else ACCENT
    edges = np.histogram_bin_edges(np.concatenate((panel.reference, panel.new)), DRIFT_BINS).tolist()
    axes.hist(panel.reference, edges, weights=100 * panel.reference_weights, color=FAINT, label="champion's images")
    axes.hist(
        panel.new,
        edges,
        weights=100 * panel.new_weights,
        color=color,
        histtype="step",
        linewidth=1.8,
        label="new images",
    )
    axes.set_title(f"{panel.name}: {panel.verdict}", loc="left", fontsize=11, color=ALARM if panel.alarm else INK)
    axes.set_xlabel(panel.unit, fontsize=9)
    axes.set_ylabel("% of images", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.locator_params(axis="x", nbins=6)


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    ticks = LogLocator(subs=(1, 1.5, 2, 3, 5, 7)) if high > 4 * low else MaxNLocator(7)
    axes.xaxis.set_major_locator(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _file(figure: Figure, kind: str) -> bytes:
    data = io.BytesIO()
    unsaid = {"Software": None} if kind == "png" else {"Date": None, "Creator": None}  # equal plots, equal bytes
    figure.savefig(data, format=kind, dpi=110, metadata=unsaid)
    return data.getvalue()
