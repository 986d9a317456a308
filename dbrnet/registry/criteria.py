"""What the gate asks of a candidate, and where the steps' files have the figures for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dbrnet.registry.gate import Direction, Threshold

PARITY = {
    "logit_difference": "largest logit difference from PyTorch",
    "differing_pixels": "share of pixels unlike PyTorch's",
    "miou_loss": "mIoU lost against PyTorch",
    "iou_loss": "most IoU lost by one class",
}


@dataclass(frozen=True)
class Measurements:
    """What the steps wrote of one candidate: export.json, champion.json, metrics.json, benchmark.json, and
    of train.json the split."""

    export: Mapping[str, Any]
    champion: Mapping[str, Any]
    metrics: Mapping[str, Any]
    benchmark: Mapping[str, Any]
    split: Mapping[str, Any]

    @property
    def deployed(self) -> str:
        """The runtime that the line uses."""
        return str(self.export["runtimes"][0])

    def figures(self, fps_hardware: str) -> dict[str, object]:
        """Every figure by its name; speed only where it was measured on `fps_hardware` ("any": anywhere)."""
        compared = self.metrics["champion"] or {}
        timed = self.benchmark["champion"] or {}
        found: dict[str, object] = dict(self.metrics["figures"])
        found |= {f"champion/{name}": figure for name, figure in compared.get("difference", {}).items()}
        if ratio := timed.get("times_as_fast"):
            found["champion/speed"] = {"value": ratio["median"], "low": ratio["low"], "high": ratio["high"]}
        latency = self.benchmark["runtimes"].get(self.deployed, {})
        if latency and (fps_hardware == "any" or fps_hardware.casefold() in self.hardware.casefold()):
            found |= {"fps": latency.get("fps"), "p99_ms": latency.get("p99_ms")}
        for name, parity in self.metrics["runtimes"].items():
            losses = [-change for change in parity["iou_change"].values() if change is not None]
            found |= {
                f"{name}/logit_difference": parity["max_logit_difference"],
                f"{name}/differing_pixels": parity["differing_pixels"],
                f"{name}/miou_loss": max(0.0, -parity["miou_change"]),
                f"{name}/iou_loss": max([0.0, *losses]) if losses else None,
            }
        found["leak_rate"] = max(self.split["leak_rate"].values())
        return found

    @property
    def hardware(self) -> str:
        """What the deployed runtime computed on: the CPU, or the first GPU."""
        hardware = self.benchmark["provenance"]["hardware"]
        on_cpu = self.benchmark["runtimes"][self.deployed]["device"] == "cpu"
        return str(hardware["cpu"]) if on_cpu else ", ".join(hardware["gpus"][:1])

    def thresholds(self, limits: Mapping[str, Any]) -> list[Threshold]:
        """Everything that is asked; `limits` is the promote section of params.yaml, None: not asked."""
        return [
            *self._accuracy(limits),
            *self._speed(limits),
            *self._parity(limits["parity"]),
            Threshold(
                "leak_rate",
                "share of val or test images that training shows",
                "data",
                1.0 if limits["allow_leak"] else 0.0,
                "at most",
            ),
        ]

    def _accuracy(self, limits: Mapping[str, Any]) -> list[Threshold]:
        by_class = limits["min_iou"]
        if not isinstance(by_class, Mapping):
            by_class = dict.fromkeys(self.metrics["scores"]["iou"], by_class)
        asked: list[tuple[str, str, float | None, Direction]] = [
            ("miou", "mIoU", limits["min_miou"], "at least"),
            *((f"iou/{name}", f"IoU of {name}", least, "at least") for name, least in by_class.items()),
            ("defect_recall", "share of defects found", limits["min_defect_recall"], "at least"),
            ("false_positives", "false positives a defect-free image", limits["max_false_positives"], "at most"),
        ]
        found = [
            Threshold(name, label, "accuracy", limit, direction)
            for name, label, limit, direction in asked
            if limit is not None
        ]
        if self.champion["version"] is not None:
            found.append(
                Threshold(
                    "champion/miou",
                    f"mIoU minus that of the champion, version {self.champion['version']},",
                    "accuracy",
                    -limits["max_miou_loss"],
                    "at least",
                    by_interval=True,
                )
            )
        return found

    def _speed(self, limits: Mapping[str, Any]) -> list[Threshold]:
        where = "" if limits["fps_hardware"] == "any" else f" on {limits['fps_hardware']}"
        found = [Threshold("fps", f"frames per second{where}", "speed", limits["min_fps"], "at least")]
        if limits["max_p99_ms"] is not None:
            label = f"99th percentile of the latency{where}, ms,"
            found.append(Threshold("p99_ms", label, "speed", limits["max_p99_ms"], "at most"))
        if self.champion["version"] is not None:
            label = "speed as a multiple of the champion's"
            least = limits["min_speed_ratio"]
            found.append(Threshold("champion/speed", label, "speed", least, "at least", by_interval=True))
        return found

    def _parity(self, limits: Mapping[str, Any]) -> list[Threshold]:
        """Of every runtime that was measured, and of the deployed one, measured or not."""
        measured = self.metrics["runtimes"]
        return [
            Threshold(
                f"{name}/{figure}",
                f"{name}: {label}",
                "parity",
                limits[measured.get(name, {}).get("precision", "fp32")][f"max_{figure}"],
                "at most",
            )
            for name in dict.fromkeys([self.deployed, *measured])
            for figure, label in PARITY.items()
        ]
