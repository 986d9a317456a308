"""Intervals as small drawings: where on a bar a figure, its interval and a mark lie."""

from collections.abc import Iterable
from dataclasses import dataclass

from dbrnet.reports.decision_facts import Json

WIDTH = 160.0  # of a bar's view box
MARGIN = 0.08  # of the span, on either side

Span = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """Places on the bar, from 0 to WIDTH; None where a figure has no such part."""

    mark: float  # the threshold, or no difference
    point: float | None
    low: float | None
    high: float | None
    good: tuple[float, float] | None = None  # where the side that passes begins, and its width


def span(values: Iterable[float]) -> Span:
    """From the least to the greatest of `values`, with a margin."""
    found = list(values)
    least, most = min(found), max(found)
    margin = MARGIN * (most - least) or 1.0
    return least - margin, most + margin


def draw(figure: Json, mark: float, scale: Span) -> Drawing:
    """A `figure` (value, low, high) and a `mark` on a bar that reaches over `scale`."""
    point, low, high = (_place_or_none(figure[key], scale) for key in ("value", "low", "high"))
    return Drawing(_place(mark, scale), point, low, high)


def draw_criterion(criterion: Json) -> Drawing:
    """A criterion's figure and threshold on a scale of their own, with the side that passes."""
    figure = {"value": criterion["figure"], "low": criterion["low"], "high": criterion["high"]}
    threshold = criterion["threshold"]
    scale = span([threshold, *(value for value in figure.values() if value is not None)])
    drawing = draw(figure, threshold, scale)
    at_least = criterion["direction"] == "at least"
    good = (drawing.mark, WIDTH - drawing.mark) if at_least else (0.0, drawing.mark)
    return Drawing(drawing.mark, drawing.point, drawing.low, drawing.high, good)


def _place(value: float, scale: Span) -> float:
    return round(WIDTH * (value - scale[0]) / (scale[1] - scale[0]), 1)


def _place_or_none(value: float | None, scale: Span) -> float | None:
    return None if value is None else _place(value, scale)
