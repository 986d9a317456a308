"""The speed's plots, as PNG: how each runtime's durations are distributed, and speed against accuracy."""

import io
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from dbrnet.reports.plots import ACCENT, FAINT, INK, STYLE

BINS = 120
ALARM = "#b3261e"


def latency_plot(durations: Mapping[str, Sequence[float]], title: str) -> bytes:
    """A PNG with a row for each runtime: all its durations in milliseconds, and the tail one by one."""
    every = np.concatenate([np.asarray(times) for times in durations.values()])
    low, high = every.min() * 0.9, every.max() * 1.25
    edges = np.geomspace(low, high, BINS + 1)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9.0, 1.3 + 0.85 * len(durations)), layout="constrained")
        axes = figure.add_subplot()
        for row, times in enumerate(durations.values()):
            _distribution(axes, -row, np.asarray(times), edges)
        axes.set_yticks([-row for row in range(len(durations))], list(durations))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _logarithmic(axes, low, high)
        axes.set_xlabel("milliseconds an image (logarithmic); the marks below: the slowest tenth, one by one")
        axes.set_title(title, loc="left", fontsize=11)
        return _png(figure)


def _distribution(axes: Axes, base: float, times: np.ndarray, edges: np.ndarray) -> None:
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


def speed_accuracy_plot(points: Mapping[str, tuple[float, float]], title: str) -> bytes:
    """A PNG of frames per second against test mIoU: `points` holds both for each runtime."""
    speeds = np.array([speed for speed, _ in points.values()])
    scores = np.array([score for _, score in points.values()])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.5, 4.4), layout="constrained")
        axes = figure.add_subplot()
        _logarithmic(axes, speeds.min() * 0.8, speeds.max() * 1.5)
        room = max(float(np.ptp(scores)), 0.01)
        axes.set_ylim(scores.min() - 0.6 * room, scores.max() + 0.6 * room)
        for place, name in enumerate(sorted(points, key=lambda name: points[name][0])):
            speed, score = points[name]
            axes.plot(speed, score, "o", color=ACCENT, markersize=7)
            level = 14 + 15 * (place % 3)  # neighbours' names stand apart
            axes.annotate(
                f"{name}, {speed:.0f}",
                (speed, score),
                (0, level if place % 2 else -level),
                textcoords="offset points",
                ha="center",
                va="center",
                fontsize=9,
                arrowprops={"arrowstyle": "-", "color": FAINT, "shrinkA": 0, "shrinkB": 4},
            )
        axes.grid(axis="y", color=FAINT, linewidth=0.5)
        axes.set(xlabel="frames per second (logarithmic)", ylabel="test mIoU")
        axes.set_title(title, loc="left", fontsize=11)
        return _png(figure)


def _logarithmic(axes: Axes, low: float, high: float) -> None:
    axes.set_xscale("log")
    axes.set_xlim(low, high)
    wide = LogLocator(subs=(1, 1.5, 2, 3, 5, 7))
    axes.xaxis.set_major_locator(wide if high > 4 * low else MaxNLocator(7))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def _png(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=110, metadata={"Software": None})
    return data.getvalue()
