"""The report's plots, as SVG: the confusion matrix and the training curves."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dbrnet.evaluation.metrics import Confusion

INK, FAINT, ACCENT = "#1f2933", "#cbd2d9", "#1f5fa8"
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


def confusion_plot(confusion: Confusion, names: Sequence[str]) -> bytes:
    """An SVG of the matrix [C, C], each row (a true class) in % of its pixels, blank where it has none."""
    totals = confusion.sum(axis=1, keepdims=True)
    percent = np.divide(100.0 * confusion, totals, out=np.full(confusion.shape, np.nan), where=totals > 0)
    side = 2.0 + 0.68 * len(names)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(side, side * 0.86), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
        for row, column in np.ndindex(percent.shape):
            if totals[row, 0]:
                value = percent[row, column]
                color = "white" if value > 55 else INK
                axes.text(column, row, _percent(value), ha="center", va="center", color=color)
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
        return _svg(figure)


def training_curves(history: Sequence[Mapping[str, float]]) -> bytes:
    """An SVG of loss, validation mIoU and learning rate by epoch.

    Each row of `history` holds `epoch`, `loss`, `val_miou` and `learning_rate`.
    """
    epochs = [row["epoch"] for row in history]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.0, 4.8), layout="constrained")
        loss, miou, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1.4))
        _curve(loss, epochs, [row["loss"] for row in history], "training loss")
        values = [row["val_miou"] for row in history]
        best = int(np.argmax(values))
        _curve(miou, epochs, values, f"validation mIoU: best {values[best]:.3f}, epoch {epochs[best]:g}")
        miou.plot(epochs[best], values[best], "o", color=ACCENT)
        _curve(rate, epochs, [row["learning_rate"] for row in history], "learning rate")
        rate.set_xlabel("epoch")
        return _svg(figure)


def _curve(axes: Axes, epochs: Sequence[float], values: Sequence[float], title: str) -> None:
    axes.plot(epochs, values, color=ACCENT, linewidth=1.6, marker="." if len(epochs) < 3 else "")
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.02)
    axes.grid(axis="y", color=FAINT, linewidth=0.5)


def _percent(value: float) -> str:
    if value == 0:
        return "0"
    if value < 0.1:
        return "<0.1"
    return f"{value:.1f}"


def _svg(figure: Figure) -> bytes:
    data = io.BytesIO()
    figure.savefig(data, format="svg", metadata={"Date": None, "Creator": None})
    return data.getvalue()
