"""The gate: measured figures and thresholds in, a decision with every criterion out. It knows no MLflow.

What was not measured rejects: the gate never passes by default. Where the measurement is too coarse to tell,
with an interval on both sides of its threshold, a person decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbrnet.records import Answer, Criterion, Decision, Direction, Estimate, Mode, Topic, Unit, Verdict, format_value


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
        verdict = self._verdict(figure)
        return Criterion(
            name=self.name,
            label=self.label,
            topic=self.topic,
            figure=figure,
            threshold=self.value,
            direction=self.direction,
            verdict=verdict,
            text=self._text(figure, verdict),
        )

    def _verdict(self, figure: Estimate) -> Verdict:
        """Meeting a threshold exactly passes; an interval that holds the threshold is inconclusive."""
        judged = (figure.low, figure.high) if self.by_interval else (figure.value,)
        if figure.value is None or None in judged:
            return "not measured"
        met = [value >= self.value if self.direction == "at least" else value <= self.value for value in judged]
        if all(met):
            return "passed"
        return "inconclusive" if any(met) else "failed"

    def _text(self, figure: Estimate, verdict: Verdict) -> str:
        """One line such as 'mIoU 71.2 % is below 75.0 %'."""
        value, threshold = self._tell_apart(figure)
        if verdict == "not measured":
            return f"{self.label}: not measured ({self.direction} {threshold} is required)"
        if figure.interval:
            value = f"{value} ({figure.interval})"
        if verdict == "inconclusive":
            return f"{self.label} {value} cannot be told from {threshold}"
        if verdict == "passed":
            return f"{self.label} {value} is {self.direction} {threshold}"
        return f"{self.label} {value} is {'below' if self.direction == 'at least' else 'above'} {threshold}"

    def _tell_apart(self, figure: Estimate) -> tuple[str, str]:
        """Figure and threshold, with as many digits as tell them apart: never '75.0 % is below 75.0 %'."""
        for extra in range(17):
            texts = [format_value(value, self.unit, extra=extra) for value in (figure.value, self.value)]
            if texts[0] != texts[1] or figure.value == self.value:
                return texts[0], texts[1]
        return repr(figure.value), repr(self.value)


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
