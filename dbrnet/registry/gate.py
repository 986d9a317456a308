"""The gate: a candidate's measured figures and thresholds in, a decision with every criterion out; without MLflow.

What was not measured rejects: the gate never passes by default. Where the measurement is too coarse to tell,
with an interval on both sides of its threshold, a person decides.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbrnet.records import (
    Answer,
    BenchmarkRecord,
    ChampionRecord,
    Criterion,
    Decision,
    Direction,
    Estimate,
    EvaluationRecord,
    ExportRecord,
    Mode,
    SplitFacts,
    Topic,
    Unit,
    Verdict,
    format_value,
)

EXACT_DIGITS = 4  # beyond the usual ones, to show a threshold exactly
EXTRA_DIGITS = 17  # at most, to tell a figure from its threshold
PARITY: dict[str, tuple[str, Unit]] = {
    "logit_difference": ("largest logit difference from PyTorch", "number"),
    "differing_pixels": ("share of pixels unlike PyTorch's", "share"),
    "miou_loss": ("mIoU lost against PyTorch", "points"),
    "iou_loss": ("most IoU lost by one class", "points"),
}


@dataclass(frozen=True)
class Measurements:
    """The records of one candidate."""

    export: ExportRecord
    champion: ChampionRecord
    evaluation: EvaluationRecord
    benchmark: BenchmarkRecord
    split: SplitFacts

    def figures(self, fps_hardware: str) -> dict[str, Estimate]:
        """Every figure by its name; speed only where it was measured on `fps_hardware` ("any": anywhere)."""
        figures = dict(self.evaluation.figures)
        if compared := self.evaluation.compared:
            figures |= {f"champion/{name}": figure for name, figure in compared.difference.items()}
        if timed := self.benchmark.compared:
            figures["champion/speed"] = timed.times_as_fast
        speed = self.benchmark.runtimes.get(self.export.deployed)
        if speed and (fps_hardware == "any" or fps_hardware.casefold() in self.hardware.casefold()):
            figures["fps"] = Estimate(value=speed.fps, unit="fps")
            figures["p99_ms"] = Estimate(value=speed.p99_ms, unit="ms")
        for runtime, parity in self.evaluation.runtimes.items():
            losses = [-change for change in parity.iou_change.values() if change is not None]
            values = {
                "logit_difference": parity.max_logit_difference,
                "differing_pixels": parity.differing_pixels,
                "miou_loss": max(0.0, -parity.miou_change),
                "iou_loss": max(0.0, *losses) if losses else None,
            }
            figures |= {f"{runtime}/{name}": Estimate(value=values[name], unit=PARITY[name][1]) for name in PARITY}
        figures["leak_rate"] = Estimate(value=max(self.split.leak_rate.values()), unit="share")
        return figures

    @property
    def hardware(self) -> str:
        """What the deployed runtime computed on: the CPU, or the first GPU."""
        hardware = self.benchmark.provenance.hardware
        on_cpu = self.benchmark.runtimes[self.export.deployed].device == "cpu"
        return hardware.cpu if on_cpu else ", ".join(hardware.gpus[:1])


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
        """The figure held against the threshold; None: there is no such figure.

        Meeting a threshold exactly passes; an interval that holds the threshold is inconclusive.
        """
        figure = figure or Estimate(value=None, unit=self.unit)
        extra, least = self._digits(figure), self.direction == "at least"
        ends = (figure.low, figure.high) if self.by_interval else (figure.value,)
        met = {end >= self.value if least else end <= self.value for end in ends if end is not None}
        verdict: Verdict = "inconclusive" if len(met) > 1 else "passed" if True in met else "failed"
        if figure.value is None or None in ends:
            verdict = "not measured"
        value, limit = figure.text(extra=extra), format_value(self.value, self.unit, extra=extra)
        texts: dict[Verdict, str] = {
            "passed": f"{self.label} {value} is {self.direction} {limit}",
            "failed": f"{self.label} {value} is {'below' if least else 'above'} {limit}",
            "inconclusive": f"{self.label} {value} cannot be told from {limit}",
            "not measured": f"{self.label}: not measured ({self.direction} {limit} is required)",
        }
        return Criterion(
            name=self.name,
            label=self.label,
            topic=self.topic,
            figure=figure,
            threshold=self.value,
            direction=self.direction,
            verdict=verdict,
            figure_text=value,
            threshold_text=limit,
            text=texts[verdict],
        )

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
