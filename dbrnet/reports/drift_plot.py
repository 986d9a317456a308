"""One image of how the new images differ from the champion's: a panel for each feature."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dbrnet.reports.plots import ACCENT, FAINT, INK, STYLE

ALARM = "#b42318"
BINS = 24


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


def drift_plot(panels: Sequence[Panel], title: str) -> bytes:
    """A PNG with one histogram a feature: the champion's images filled, the new ones as a line."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(4.0 * columns, 0.9 + 2.5 * rows), layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=13)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for place, panel in zip(axes, panels, strict=False):
            _histograms(place, panel)
        for place in axes[len(panels) :]:
            place.set_axis_off()
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, frameon=False)
        data = io.BytesIO()
        figure.savefig(data, format="png", dpi=110, metadata={"Software": None})
        return data.getvalue()


def _histograms(axes: Axes, panel: Panel) -> None:
    both = np.concatenate((panel.reference, panel.new))
    edges = np.histogram_bin_edges(both, BINS).tolist()
    axes.hist(panel.reference, edges, weights=100 * panel.reference_weights, color=FAINT, label="champion's images")
    axes.hist(
        panel.new,
        edges,
        weights=100 * panel.new_weights,
        color=ALARM if panel.alarm else ACCENT,
        histtype="step",
        linewidth=1.8,
        label="new images",
    )
    axes.set_title(f"{panel.name}: {panel.verdict}", loc="left", fontsize=11, color=ALARM if panel.alarm else INK)
    axes.set_xlabel(panel.unit, fontsize=9)
    axes.set_ylabel("% of images", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.locator_params(axis="x", nbins=6)
