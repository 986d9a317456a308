from copy import deepcopy
from typing import Any

import pytest

from dbrnet.config import PromoteParams
from dbrnet.registry.criteria import Measurements
from dbrnet.registry.gate import Decision, decide
from tests.sections import PARAMS

LIMITS = {"max_logit_difference": 1e-3, "max_differing_pixels": 1e-4, "max_miou_loss": 5e-4, "max_iou_loss": 1e-3}
PARITY = {"fp32": LIMITS, "bf16": LIMITS, "int8": LIMITS | {"max_logit_difference": 20.0}}
ASKED = PARAMS.promote.model_dump() | {
    "min_miou": 0.7,
    "min_iou": 0.5,
    "min_defect_recall": 0.6,
    "max_false_positives": 0.5,
    "max_miou_loss": 0.01,
    "min_fps": 10.0,
    "max_p99_ms": 50.0,
    "min_speed_ratio": 0.9,
    "parity": PARITY,
}
SAME = {
    "precision": "fp32",
    "max_logit_difference": 1e-4,
    "differing_pixels": 0.0,
    "miou_change": 0.0,
    "iou_change": {"background": 0.0, "dent": None},
}


def interval(value: float, half: float = 0.005) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


FACTS: dict[str, Any] = {
    "export": {"runtimes": ["onnxruntime-cpu", "openvino-int8"]},
    "champion": {"version": 3},
    "metrics": {
        "scores": {"iou": {"background": 0.9, "dent": 0.6}},
        "figures": {
            "miou": interval(0.75),
            "iou/background": interval(0.9),
            "iou/dent": interval(0.6),
            "defect_recall": interval(0.8),
            "false_positives": interval(0.1),
        },
        "runtimes": {
            "onnxruntime-cpu": SAME,
            "openvino-int8": SAME | {"precision": "int8", "max_logit_difference": 3.0},
        },
        "champion": {"version": 3, "difference": {"miou": interval(0.01)}},
    },
    "benchmark": {
        "runtimes": {"onnxruntime-cpu": {"device": "cpu", "fps": 30.0, "p99_ms": 41.0}},
        "champion": {"version": 3, "times_as_fast": {"median": 1.0, "low": 0.95, "high": 1.05, "pairs": 10}},
        "provenance": {"hardware": {"cpu": "AMD EPYC", "gpus": []}},
    },
    "split": {"leak_rate": {"val": 0.0, "test": 0.0}},
}


def decided(changes: dict[str, Any] | None = None, **asked: Any) -> Decision:
    """The decision on the facts, with some changed, by paths such as 'metrics.champion.difference'."""
    facts = deepcopy(FACTS)
    for path, value in (changes or {}).items():
        *way, last = path.split(".")
        place = facts
        for key in way:
            place = place[key]
        place[last] = value
    params = PromoteParams.model_validate(ASKED | asked)
    found = Measurements(**facts)
    return decide(found.figures(params.fps_hardware), found.thresholds(params.model_dump()), params.mode)


def test_everything_that_is_asked_is_asked() -> None:
    decision = decided()
    assert decision.answer == "promoted", decision.reasons
    names = [criterion.asked.name for criterion in decision.criteria]
    parity = ("logit_difference", "differing_pixels", "miou_loss", "iou_loss")
    assert names == [
        *("miou", "iou/background", "iou/dent", "defect_recall", "false_positives", "champion/miou"),
        *("fps", "p99_ms", "champion/speed"),
        *(f"onnxruntime-cpu/{name}" for name in parity),
        *(f"openvino-int8/{name}" for name in parity),
        "leak_rate",
    ]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metrics.figures.miou": interval(0.69)}, "mIoU 0.69"),
        ({"metrics.figures.iou/dent": interval(0.4)}, "IoU of dent 0.4"),
        ({"metrics.figures.defect_recall": interval(0.5)}, "share of defects found"),
        ({"metrics.figures.false_positives": interval(0.7)}, "false positives"),
        ({"metrics.figures.false_positives": {"value": None, "low": None, "high": None}}, "not measured"),
        ({"metrics.champion.difference": {"miou": interval(-0.02)}}, "version 3, -0.02"),
        ({"metrics.champion": {"version": 3, "not_compared": "other classes"}}, "not measured"),
        ({"metrics.champion": None}, "version 3,: not measured"),
        ({"benchmark.runtimes": {}}, "frames per second: not measured"),
        ({"benchmark.runtimes.onnxruntime-cpu.fps": 9.0}, "frames per second 9 is below 10"),
        ({"benchmark.runtimes.onnxruntime-cpu.p99_ms": 60.0}, "99th percentile"),
        ({"benchmark.champion.times_as_fast": {"median": 0.5, "low": 0.4, "high": 0.6}}, "multiple of"),
        ({"benchmark.champion": None}, "multiple of"),
        ({"metrics.runtimes.openvino-int8.max_logit_difference": 30.0}, "openvino-int8: largest logit"),
        ({"metrics.runtimes.onnxruntime-cpu.iou_change": {"background": -0.01, "dent": None}}, "one class"),
        ({"metrics.runtimes": {}}, "onnxruntime-cpu: largest logit difference from PyTorch: not measured"),
        ({"split.leak_rate": {"val": 0.0, "test": 0.95}}, "training shows 0.95 is above 0"),
        ({"split.leak_rate": {"val": 0.1, "test": 0.0}}, "training shows 0.1 is above 0"),
    ],
)
def test_what_is_in_the_way_is_named(changes: dict[str, Any], words: str) -> None:
    decision = decided(changes)
    assert decision.answer == "rejected"
    assert words in "\n".join(decision.reasons)


def test_a_difference_too_small_to_tell_is_for_a_person() -> None:
    unsure = {"metrics.champion.difference": {"miou": interval(0.0, 0.02)}}
    decision = decided(unsure)
    assert decision.answer == "needs review"
    assert "cannot be told from -0.01" in decision.reasons[0]
    assert decided(unsure, max_miou_loss=0.03).answer == "promoted"


def test_without_a_champion_nothing_is_compared() -> None:
    decision = decided({"champion.version": None, "metrics.champion": None, "benchmark.champion": None})
    assert decision.answer == "promoted"
    assert not [c for c in decision.criteria if c.asked.name.startswith("champion/")]


def test_what_is_null_is_not_asked_and_classes_may_have_their_own() -> None:
    nothing = {"metrics.figures.false_positives": {"value": None, "low": None, "high": None}}
    assert decided(nothing, max_false_positives=None).answer == "promoted"
    decision = decided(min_iou={"dent": 0.65})
    assert decision.reasons == ["IoU of dent 0.6 (0.595 to 0.605) is below 0.65"]
    assert "IoU of crack: not measured" in decided(min_iou={"crack": 0.1}).reasons[0]
    assert len(decided(min_iou=None).criteria) == len(decided().criteria) - 2


def test_speed_counts_only_on_the_hardware_it_is_asked_for() -> None:
    assert decided(fps_hardware="epyc").answer == "promoted"
    reasons = decided(fps_hardware="Xeon").reasons
    assert len(reasons) == 2
    assert all("on Xeon" in reason and "not measured" in reason for reason in reasons)
    beside_it = {"benchmark.provenance.hardware.gpus": ["NVIDIA H100"]}
    assert decided(beside_it, fps_hardware="H100").answer == "rejected"  # the figure is the CPU's
    assert decided(beside_it, fps_hardware="EPYC").answer == "promoted"
    on_it = beside_it | {"benchmark.runtimes.onnxruntime-cpu.device": "cuda"}
    assert decided(on_it, fps_hardware="H100").answer == "promoted"
    assert decided(on_it, fps_hardware="EPYC").answer == "rejected"


def test_a_leak_may_be_allowed() -> None:
    assert decided({"split.leak_rate": {"val": 1.0, "test": 1.0}}, allow_leak=True).answer == "promoted"
