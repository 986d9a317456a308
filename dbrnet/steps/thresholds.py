"""The gate's thresholds: what the section promote of params.yaml requires of a candidate's figures."""

from collections.abc import Iterator, Mapping

from dbrnet.config import ParityParams, PromoteParams
from dbrnet.records import Direction, Unit
from dbrnet.registry.gate import PARITY, Measurements, Threshold


def thresholds(params: PromoteParams, measurements: Measurements) -> list[Threshold]:
    """All thresholds; a limit that is null sets none."""
    champion = measurements.champion.version
    leak_rate = 1.0 if params.allow_leak else 0.0
    label = "share of val or test images with a near-copy in train"
    return [
        *_accuracy(params, list(measurements.evaluation.scores.iou), champion),
        *_speed(params, champion),
        *_parity(params.parity, measurements),
        Threshold("leak_rate", label, "data", leak_rate, "share", "at most"),
    ]


def _accuracy(params: PromoteParams, classes: list[str], champion: int | None) -> Iterator[Threshold]:
    least = params.min_iou
    by_class: Mapping[str, float | None] = least if isinstance(least, dict) else dict.fromkeys(classes, least)
    limits: list[tuple[str, str, float | None, Unit, Direction]] = [
        ("miou", "mIoU", params.min_miou, "share", "at least"),
        *((f"iou/{name}", f"IoU of {name}", limit, "share", "at least") for name, limit in by_class.items()),
        ("defect_recall", "share of defects found", params.min_defect_recall, "share", "at least"),
        ("false_positives", "false positives per defect-free image", params.max_false_positives, "count", "at most"),
    ]
    for name, label, limit, unit, direction in limits:
        if limit is not None:
            yield Threshold(name, label, "accuracy", limit, unit, direction)
    if champion is not None:
        label, margin = f"mIoU minus that of the champion, version {champion},", -params.max_miou_loss
        yield Threshold("champion/miou", label, "accuracy", margin, "points", "at least", by_interval=True)


def _speed(params: PromoteParams, champion: int | None) -> Iterator[Threshold]:
    where = "" if params.fps_hardware == "any" else f" on {params.fps_hardware}"
    yield Threshold("fps", f"frames per second{where}", "speed", params.min_fps, "fps", "at least")
    if params.max_p99_ms is not None:
        label = f"99th percentile of the latency{where}, ms,"
        yield Threshold("p99_ms", label, "speed", params.max_p99_ms, "ms", "at most")
    if champion is not None:
        label, least = "speed as a multiple of the champion's", params.min_speed_ratio
        yield Threshold("champion/speed", label, "speed", least, "ratio", "at least", by_interval=True)


def _parity(params: ParityParams, measurements: Measurements) -> Iterator[Threshold]:
    """Of every runtime that was measured, and of the deployed one, measured or not."""
    measured = measurements.evaluation.runtimes
    by_precision = {"fp32": params.fp32, "bf16": params.bf16, "int8": params.int8}
    for runtime in dict.fromkeys([measurements.export.deployed, *measured]):
        limits = by_precision[measured[runtime].precision if runtime in measured else "fp32"]
        values = {
            "logit_difference": limits.max_logit_difference,
            "differing_pixels": limits.max_differing_pixels,
            "miou_loss": limits.max_miou_loss,
            "iou_loss": limits.max_iou_loss,
        }
        for name, (label, unit) in PARITY.items():
            yield Threshold(f"{runtime}/{name}", f"{runtime}: {label}", "parity", values[name], unit, "at most")
