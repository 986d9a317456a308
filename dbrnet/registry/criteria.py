"""What the gate requires of a candidate: its figures from the steps' records, and the thresholds for them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from dbrnet.records import (
    BenchmarkRecord,
    ChampionRecord,
    Direction,
    Estimate,
    EvaluationRecord,
    ExportRecord,
    SplitFacts,
    Unit,
)
from dbrnet.registry.gate import Threshold

PARITY: dict[str, tuple[str, Unit]] = {
    "logit_difference": ("largest logit difference from PyTorch", "number"),
    "differing_pixels": ("share of pixels unlike PyTorch's", "share"),
    "miou_loss": ("mIoU lost against PyTorch", "points"),
    "iou_loss": ("most IoU lost by one class", "points"),
}


class ParityLimits(Protocol):
    """The part of `Limits` for one precision."""

    @property
    def max_logit_difference(self) -> float: ...
    @property
    def max_differing_pixels(self) -> float: ...
    @property
    def max_miou_loss(self) -> float: ...
    @property
    def max_iou_loss(self) -> float: ...


class PrecisionLimits(Protocol):
    """The part of `Limits` for parity, by precision."""

    @property
    def fp32(self) -> ParityLimits: ...
    @property
    def bf16(self) -> ParityLimits: ...
    @property
    def int8(self) -> ParityLimits: ...


class Limits(Protocol):
    """The section promote of params.yaml; None sets no threshold."""

    @property
    def min_miou(self) -> float: ...
    @property
    def min_iou(self) -> float | dict[str, float] | None: ...
    @property
    def min_defect_recall(self) -> float | None: ...
    @property
    def max_false_positives(self) -> float | None: ...
    @property
    def max_miou_loss(self) -> float: ...
    @property
    def min_fps(self) -> float: ...
    @property
    def max_p99_ms(self) -> float | None: ...
    @property
    def fps_hardware(self) -> str: ...
    @property
    def min_speed_ratio(self) -> float: ...
    @property
    def allow_leak(self) -> bool: ...
    @property
    def parity(self) -> PrecisionLimits: ...


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

    def thresholds(self, limits: Limits) -> list[Threshold]:
        """All thresholds that `limits` sets."""
        leak_rate = 1.0 if limits.allow_leak else 0.0
        label = "share of val or test images with a copy in train"
        return [
            *self._accuracy(limits),
            *self._speed(limits),
            *self._parity(limits.parity),
            Threshold("leak_rate", label, "data", leak_rate, "share", "at most"),
        ]

    def _accuracy(self, limits: Limits) -> Iterator[Threshold]:
        least = limits.min_iou
        by_class: Mapping[str, float | None] = (
            least if isinstance(least, dict) else dict.fromkeys(self.evaluation.scores.iou, least)
        )
        rows: list[tuple[str, str, float | None, Unit, Direction]] = [
            ("miou", "mIoU", limits.min_miou, "share", "at least"),
            *((f"iou/{name}", f"IoU of {name}", least, "share", "at least") for name, least in by_class.items()),
            ("defect_recall", "share of defects found", limits.min_defect_recall, "share", "at least"),
            (
                "false_positives",
                "false positives per defect-free image",
                limits.max_false_positives,
                "count",
                "at most",
            ),
        ]
        for name, label, limit, unit, direction in rows:
            if limit is not None:
                yield Threshold(name, label, "accuracy", limit, unit, direction)
        if self.champion.version is not None:
            label = f"mIoU minus that of the champion, version {self.champion.version},"
            margin = -limits.max_miou_loss
            yield Threshold("champion/miou", label, "accuracy", margin, "points", "at least", by_interval=True)

    def _speed(self, limits: Limits) -> Iterator[Threshold]:
        where = "" if limits.fps_hardware == "any" else f" on {limits.fps_hardware}"
        yield Threshold("fps", f"frames per second{where}", "speed", limits.min_fps, "fps", "at least")
        if limits.max_p99_ms is not None:
            label = f"99th percentile of the latency{where}, ms,"
            yield Threshold("p99_ms", label, "speed", limits.max_p99_ms, "ms", "at most")
        if self.champion.version is not None:
            label, least = "speed as a multiple of the champion's", limits.min_speed_ratio
            yield Threshold("champion/speed", label, "speed", least, "ratio", "at least", by_interval=True)

    def _parity(self, limits: PrecisionLimits) -> Iterator[Threshold]:
        """Of every runtime that was measured, and of the deployed one, measured or not."""
        measured = self.evaluation.runtimes
        for runtime in dict.fromkeys([self.export.deployed, *measured]):
            of_precision = getattr(limits, measured[runtime].precision) if runtime in measured else limits.fp32
            for name, (label, unit) in PARITY.items():
                limit = getattr(of_precision, f"max_{name}")
                yield Threshold(f"{runtime}/{name}", f"{runtime}: {label}", "parity", limit, unit, "at most")
