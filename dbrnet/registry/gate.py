"""The gate: measured figures and thresholds in, a decision with every criterion out. It knows no MLflow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

Answer = Literal["promoted", "rejected"]

Direction = Literal["at least", "at most"]


@dataclass(frozen=True)
class Threshold:
    """What one figure must meet; `name` is the figure's, `label` says it to a reader (mIoU for miou)."""

    name: str
    label: str
    value: float
    direction: Direction


@dataclass(frozen=True)
class Criterion:
    """One figure held against its threshold; `figure` is None where nothing finite was measured."""

    name: str
    label: str
    figure: float | None
    threshold: float
    direction: Direction

    def __post_init__(self) -> None:
        if self.figure is not None and not math.isfinite(self.figure):
            object.__setattr__(self, "figure", None)

    @property
    def passed(self) -> bool:
        """Whether the figure was measured and meets the threshold (meeting it exactly passes)."""
        if self.figure is None:
            return False
        return (
            self.figure >= self.threshold if self.direction == "at least" else self.figure <= self.threshold
        )

    @property
    def texts(self) -> tuple[str, str]:
        """Figure and threshold in as few digits (from 4) as tell them apart: no '0.75 is below 0.75'."""
        if self.figure is None:
            return "not measured", f"{self.threshold:.4g}"
        for digits in range(4, 17):
            figure, threshold = f"{self.figure:.{digits}g}", f"{self.threshold:.{digits}g}"
            if figure != threshold or self.figure == self.threshold:
                return figure, threshold
        return repr(self.figure), repr(self.threshold)

    @property
    def verdict(self) -> str:
        """One line such as 'mIoU 0.712 is below 0.75'."""
        figure, threshold = self.texts
        if self.figure is None:
            return f"{self.label}: {figure} ({self.direction} {threshold} is required)"
        if self.passed:
            return f"{self.label} {figure} is {self.direction} {threshold}"
        return f"{self.label} {figure} is {'below' if self.direction == 'at least' else 'above'} {threshold}"

    def to_dict(self) -> dict[str, Any]:
        """The criterion as JSON values."""
        return {
            "name": self.name,
            "figure": self.figure,
            "threshold": self.threshold,
            "direction": self.direction,
            "passed": self.passed,
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Decision:
    """The gate's answer. Promoted means: there are criteria, and every one was measured and passed."""

    criteria: tuple[Criterion, ...]

    @property
    def answer(self) -> Answer:
        """'promoted' or 'rejected'."""
        return "promoted" if self.criteria and all(c.passed for c in self.criteria) else "rejected"

    @property
    def reasons(self) -> list[str]:
        """Why it is rejected, one line for each criterion that failed; empty when promoted."""
        return [criterion.verdict for criterion in self.criteria if not criterion.passed]

    def to_dict(self) -> dict[str, Any]:
        """The decision as JSON values."""
        return {
            "answer": self.answer,
            "reasons": self.reasons,
            "criteria": [criterion.to_dict() for criterion in self.criteria],
        }


def decide(figures: Mapping[str, float | None], thresholds: Sequence[Threshold]) -> Decision:
    """Hold `figures`, by name, against the thresholds.

    A figure that is missing, None, NaN or infinite was not measured, and that rejects: the gate never
    passes by default.
    """
    return Decision(
        tuple(
            Criterion(t.name, t.label, _measured(figures, t.name), t.value, t.direction) for t in thresholds
        )
    )


def _measured(figures: Mapping[str, float | None], name: str) -> float | None:
    figure = figures.get(name)
    return float(figure) if isinstance(figure, Real) and not isinstance(figure, bool) else None
