"""The gate: measured figures and thresholds in, a decision with every criterion out. It knows no MLflow.

What was not measured rejects: the gate never passes by default. What was measured too coarsely to tell, an
interval on both sides of its threshold, is a person's to decide.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, Self

Answer = Literal["promoted", "rejected", "needs review"]
Verdict = Literal["passed", "failed", "inconclusive", "not measured"]
Topic = Literal["accuracy", "speed", "parity", "data"]
Direction = Literal["at least", "at most"]
Mode = Literal["automatic", "review"]


@dataclass(frozen=True)
class Figure:
    """A measured value and, where one is known, its confidence interval; None: nothing finite measured."""

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, found: object) -> Self:
        """From a plain number or a mapping with value, low and high; whatever is no finite number is None."""
        if isinstance(found, Mapping):
            return cls(*(_finite(found.get(key)) for key in ("value", "low", "high")))
        return cls(_finite(found))


@dataclass(frozen=True)
class Threshold:
    """What one figure must meet; `name` is the figure's, `label` says it to a reader (mIoU for miou).

    `by_interval`: not the value but its whole interval must meet it, as in a test of non-inferiority.
    """

    name: str
    label: str
    topic: Topic
    value: float
    direction: Direction
    by_interval: bool = False


@dataclass(frozen=True)
class Criterion:
    """One figure held against its threshold."""

    asked: Threshold
    figure: Figure

    @property
    def verdict(self) -> Verdict:
        """Meeting a threshold exactly passes; an interval that holds the threshold is inconclusive."""
        figure = self.figure
        judged = (figure.low, figure.high) if self.asked.by_interval else (figure.value,)
        met = [self._meets(value) for value in (figure.value, *judged) if value is not None]
        if len(met) <= len(judged):
            return "not measured"
        judgements = met[1:]
        if all(judgements):
            return "passed"
        return "inconclusive" if any(judgements) else "failed"

    def _meets(self, value: float) -> bool:
        return value >= self.asked.value if self.asked.direction == "at least" else value <= self.asked.value

    @property
    def texts(self) -> tuple[str, str]:
        """Figure and threshold in as few digits (from 4) as tell them apart: no '0.75 is below 0.75'."""
        value, threshold = self.figure.value, self.asked.value
        if value is None:
            return "not measured", f"{threshold:.4g}"
        for digits in range(4, 17):
            figure, limit = f"{value:.{digits}g}", f"{threshold:.{digits}g}"
            if figure != limit or value == threshold:
                return figure, limit
        return repr(value), repr(threshold)

    @property
    def text(self) -> str:
        """One line such as 'mIoU 0.712 is below 0.75'."""
        asked, (figure, threshold) = self.asked, self.texts
        if self.figure.low is not None and self.figure.high is not None:
            figure = f"{figure} ({self.figure.low:.4g} to {self.figure.high:.4g})"
        if self.verdict == "not measured":
            return f"{asked.label}: not measured ({asked.direction} {threshold} is required)"
        if self.verdict == "inconclusive":
            return f"{asked.label} {figure} cannot be told from {threshold}"
        if self.verdict == "passed":
            return f"{asked.label} {figure} is {asked.direction} {threshold}"
        return f"{asked.label} {figure} is {'below' if asked.direction == 'at least' else 'above'} {threshold}"

    def to_dict(self) -> dict[str, Any]:
        """The criterion as JSON values."""
        return {
            "name": self.asked.name,
            "label": self.asked.label,
            "topic": self.asked.topic,
            "figure": self.figure.value,
            "low": self.figure.low,
            "high": self.figure.high,
            "threshold": self.asked.value,
            "direction": self.asked.direction,
            "verdict": self.verdict,
            "text": self.text,
        }


@dataclass(frozen=True)
class Decision:
    """The gate's answer.

    Promoted means: there are criteria, every one was measured and passed, and the mode is automatic. One
    that failed or was not measured rejects; else one that is inconclusive, or the mode, asks for a review.
    """

    criteria: tuple[Criterion, ...]
    mode: Mode

    @property
    def answer(self) -> Answer:
        """'promoted', 'rejected' or 'needs review'."""
        verdicts = {criterion.verdict for criterion in self.criteria}
        if not verdicts or verdicts & {"failed", "not measured"}:
            return "rejected"
        return "promoted" if verdicts == {"passed"} and self.mode == "automatic" else "needs review"

    @property
    def reasons(self) -> list[str]:
        """Why it is not promoted, one line for each criterion in the way; empty when promoted."""
        if self.answer == "rejected":
            grounds = [c.text for c in self.criteria if c.verdict in ("failed", "not measured")]
            return grounds or ["nothing was asked, and nothing passes by default"]
        grounds = [c.text for c in self.criteria if c.verdict == "inconclusive"]
        if self.answer == "needs review" and not grounds:
            return ["every criterion passed, and promote.mode has a person decide"]
        return grounds

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON values."""
        return {
            "answer": self.answer,
            "mode": self.mode,
            "reasons": self.reasons,
            "criteria": [criterion.to_dict() for criterion in self.criteria],
        }


def decide(figures: Mapping[str, object], thresholds: Sequence[Threshold], mode: Mode) -> Decision:
    """Hold `figures`, by name, against the thresholds.

    A figure is a number or a mapping with value, low and high. One that is missing, None, NaN or infinite
    was not measured.
    """
    return Decision(tuple(Criterion(one, Figure.of(figures.get(one.name))) for one in thresholds), mode)


def _finite(found: object) -> float | None:
    if isinstance(found, Real) and not isinstance(found, bool) and math.isfinite(float(found)):
        return float(found)
    return None
