"""The gate: measured figures and thresholds in, a decision with every criterion out. Independent of MLflow.

What was not measured rejects: the gate never passes by default. Where the measurement is too coarse to tell,
with an interval on both sides of its threshold, a person decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbrnet.records import Answer, Criterion, Decision, Direction, Estimate, Mode, Topic, Unit, Verdict, format_value

EXACT_DIGITS = 4  # beyond the usual ones, to show a threshold exactly
EXTRA_DIGITS = 17  # at most, to tell a figure from its threshold


@dataclass(frozen=True)
class Threshold:
    """What one figure must meet; `name` is the figure's, `label` says it to a reader (mIoU for miou).

    `by_interval`: not the value but its whole interval must meet it, as in a test of non-inferiority.
    """

    name: str
    label: str
    topic: Topic
    value: float  # in the figure's unit
    unit: Unit
    direction: Direction
    by_interval: bool = False

    def judge(self, figure: Estimate | None) -> Criterion:
        """The figure held against the threshold; None: there is no such figure."""
        figure = figure or Estimate(value=None, unit=self.unit)
        verdict, extra = self._verdict(figure), self._digits(figure)
        texts = figure.text(extra=extra), format_value(self.value, self.unit, extra=extra)
        return Criterion(
            name=self.name,
            label=self.label,
            topic=self.topic,
            figure=figure,
            threshold=self.value,
            direction=self.direction,
            verdict=verdict,
            figure_text=texts[0],
            threshold_text=texts[1],
            text=self._text(verdict, *texts),
        )

    def _verdict(self, figure: Estimate) -> Verdict:
        """Meeting a threshold exactly passes; an interval that holds the threshold is inconclusive."""
        ends = (figure.low, figure.high) if self.by_interval else (figure.value,)
        judged = [end for end in ends if end is not None]
        if figure.value is None or len(judged) < len(ends):
            return "not measured"
        met = [value >= self.value if self.direction == "at least" else value <= self.value for value in judged]
        if all(met):
            return "passed"
        return "inconclusive" if any(met) else "failed"

    def _text(self, verdict: Verdict, figure: str, threshold: str) -> str:
        """One line such as 'mIoU 71.2 % is below 75.0 %'."""
        if verdict == "not measured":
            return f"{self.label}: not measured ({self.direction} {threshold} is required)"
        if verdict == "inconclusive":
            return f"{self.label} {figure} cannot be told from {threshold}"
        if verdict == "passed":
            return f"{self.label} {figure} is {self.direction} {threshold}"
        return f"{self.label} {figure} is {'below' if self.direction == 'at least' else 'above'} {threshold}"

    def _digits(self, figure: Estimate) -> int:
        """The extra digits that show the threshold exactly, and tell the figure from it.

        So that a reader never sees '75.0 % is below 75.0 %', nor 100.0 % where 99.99 % is required.
        """
        numbers = [end for end in (figure.value, figure.low, figure.high) if end is not None and end != self.value]

        def write(number: float, extra: int) -> str:
            return format_value(number, self.unit, bare=True, extra=extra)

        for extra in range(EXTRA_DIGITS):
            threshold = write(self.value, extra)
            exact = write(self.value, extra + EXACT_DIGITS).rstrip("0") == threshold.rstrip("0")
            if (exact or extra >= EXACT_DIGITS) and threshold not in {write(number, extra) for number in numbers}:
                return extra
        return EXTRA_DIGITS


def decide(figures: Mapping[str, Estimate], thresholds: Sequence[Threshold], mode: Mode) -> Decision:
    """Hold `figures`, by name, against the thresholds; one that is missing or has no value was not measured.

    Promoted means: there are criteria, every one was measured and passed, and the mode is automatic. One
    that failed or was not measured rejects; else one that is inconclusive, or the mode, asks for a review.
    """
    criteria = tuple(threshold.judge(figures.get(threshold.name)) for threshold in thresholds)
    unmet = [criterion.text for criterion in criteria if criterion.verdict in ("failed", "not measured")]
    unclear = [criterion.text for criterion in criteria if criterion.verdict == "inconclusive"]
    answer: Answer = "promoted"
    reasons: list[str] = []
    if unmet or not criteria:
        answer, reasons = "rejected", unmet or ["there is no threshold, and nothing passes by default"]
    elif unclear or mode == "review":
        answer, reasons = "needs review", unclear or ["every criterion passed, and promote.mode has a person decide"]
    return Decision(answer=answer, mode=mode, reasons=tuple(reasons), criteria=criteria)
