"""The figures that the gate decides on, from the records of the steps."""

from dataclasses import dataclass

from dbrnet.records import BenchmarkRecord, ChampionRecord, Estimate, EvaluationRecord, ExportRecord, SplitFacts, Unit

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
