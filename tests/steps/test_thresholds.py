"""What the gate requires of a candidate, and where its figures come from."""

from typing import Any

import pytest

from dbrnet.config import PromoteParams
from dbrnet.records import ChampionScores, ChampionSpeed, Decision, Estimate
from dbrnet.registry.gate import Measurements, decide
from dbrnet.steps.thresholds import thresholds
from tests.reports import examples
from tests.reports.examples import CHAMPION, change, figure, parity, scores
from tests.sections import PARAMS

LIMITS = {"max_logit_difference": 1e-3, "max_differing_pixels": 1e-4, "max_miou_loss": 5e-4, "max_iou_loss": 1e-3}
SETTINGS = PARAMS.promote.model_dump(mode="json") | {
    "mode": "automatic",
    "fps_hardware": "any",
    "allow_leak": False,
    "min_miou": 0.7,
    "min_iou": 0.5,
    "min_defect_recall": 0.6,
    "max_false_positives": 0.5,
    "max_miou_loss": 0.01,
    "min_fps": 10.0,
    "max_p99_ms": 50.0,
    "min_speed_ratio": 0.9,
    "parity": {"fp32": LIMITS, "bf16": LIMITS, "int8": LIMITS | {"max_logit_difference": 20.0}},
}
DEPLOYED, INT8 = "onnxruntime-cpu", "openvino-int8"


def measurements() -> Measurements:
    return Measurements(
        examples.export(),
        examples.champion_record(),
        examples.evaluation(),
        examples.benchmark(),
        examples.train().split,
    )


def decided(measured: Measurements | None = None, **settings: Any) -> Decision:
    measured = measured or measurements()
    params = PromoteParams.model_validate(SETTINGS | settings)
    return decide(measured.figures(params.fps_hardware), thresholds(params, measured), params.mode)


def with_figure(name: str, value: Estimate) -> Measurements:
    """The candidate with another figure."""
    measured = measurements()
    figures = {**measured.evaluation.figures, name: value}
    return Measurements(**vars(measured) | {"evaluation": change(measured.evaluation, figures=figures)})


def with_(**fields: Any) -> Measurements:
    """The candidate with other values, by paths such as evaluation__champion."""
    found = vars(measurements())
    for path, value in fields.items():
        record, _, rest = path.partition("__")
        found = found | {record: change(found[record], **{rest: value})}
    return Measurements(**found)


def with_difference(value: float, half: float = 0.005) -> Measurements:
    return with_(evaluation__champion__compared__difference={"miou": figure(value, half, "points")})


def test_every_limit_becomes_a_criterion() -> None:
    decision = decided()
    assert decision.answer == "promoted", decision.reasons
    names = [criterion.name for criterion in decision.criteria]
    kinds = ("logit_difference", "differing_pixels", "miou_loss", "iou_loss")
    assert names == [
        *("miou", *(f"iou/{name}" for name in scores().iou), "defect_recall", "false_positives", "champion/miou"),
        *("fps", "p99_ms", "champion/speed"),
        *(f"{DEPLOYED}/{kind}" for kind in kinds),
        *(f"{INT8}/{kind}" for kind in kinds),
        "leak_rate",
    ]


RUNTIMES = measurements().evaluation.runtimes
SPEED = measurements().benchmark.runtimes[DEPLOYED]
SLOWER = change(measurements().benchmark.compared, times_as_fast=Estimate(value=0.5, low=0.4, high=0.6, unit="ratio"))
ONE_CLASS = parity(iou_change={**dict.fromkeys(scores().iou, 0.0), "patches": -0.01, "scratches": None})


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        (with_figure("miou", figure(0.69)), "mIoU 69.0 %"),
        (with_figure("iou/patches", figure(0.4)), "IoU of patches 40.0 %"),
        (with_figure("defect_recall", figure(0.5)), "share of defects found"),
        (with_figure("false_positives", figure(0.7, unit="count")), "false positives per defect-free image 0.70"),
        (with_figure("false_positives", figure(None, unit="count")), "not measured"),
        (with_difference(-0.02), "version 5, −2.0 points"),
        (
            with_(evaluation__champion=ChampionScores(version=5, sha256=CHAMPION, not_compared="other classes")),
            "version 5,: not measured",
        ),
        (with_(evaluation__champion=None), "version 5,: not measured"),
        (with_(benchmark__runtimes={}), "frames per second: not measured"),
        (with_(benchmark__runtimes={DEPLOYED: change(SPEED, fps=9.0)}), "frames per second 9.0 is below 10.0"),
        (with_(benchmark__runtimes={DEPLOYED: change(SPEED, p99_ms=60.0)}), "99th percentile"),
        (with_(benchmark__champion__compared=SLOWER), "multiple of the champion's 0.50"),
        (with_(benchmark__champion=None), "multiple of"),
        (
            with_(benchmark__champion=ChampionSpeed(version=5, sha256=CHAMPION, not_compared="it cannot run")),
            "multiple of the champion's: not measured",
        ),
        (with_(evaluation__runtimes={**RUNTIMES, INT8: parity("int8", max_logit_difference=30.0)}), "int8: largest"),
        (with_(evaluation__runtimes={**RUNTIMES, INT8: parity("int8", max_logit_difference=None)}), "not measured"),
        (with_(evaluation__runtimes={**RUNTIMES, DEPLOYED: ONE_CLASS}), "most IoU lost by one class +1.0 points"),
        (with_(evaluation__runtimes={}), "onnxruntime-cpu: largest logit difference from PyTorch: not measured"),
        (with_(split__leak_rate={"val": 0.0, "test": 0.95}), "train 95.0 % is above 0.0 %"),
        (with_(split__leak_rate={"val": 0.1, "test": 0.0}), "train 10.0 % is above 0.0 %"),
    ],
)
def test_rejection_names_what_is_not_met(measured: Measurements, words: str) -> None:
    decision = decided(measured)
    assert decision.answer == "rejected"
    assert words in "\n".join(decision.reasons)


def test_difference_too_small_to_tell_needs_review() -> None:
    unsure = with_difference(0.0, 0.02)
    decision = decided(unsure)
    assert decision.answer == "needs review"
    assert "cannot be told from −1.0 points" in decision.reasons[0]
    assert decided(unsure, max_miou_loss=0.03).answer == "promoted"


def test_without_champion_nothing_is_compared() -> None:
    alone = vars(with_(evaluation__champion=None, benchmark__champion=None)) | {"champion": examples.no_champion()}
    decision = decided(Measurements(**alone))
    assert decision.answer == "promoted"
    assert not [criterion for criterion in decision.criteria if criterion.name.startswith("champion/")]


def test_null_sets_no_threshold_and_classes_may_have_their_own() -> None:
    nothing = with_figure("false_positives", figure(None, unit="count"))
    assert decided(nothing, max_false_positives=None).answer == "promoted"
    assert decided(min_iou={"patches": 0.85}).reasons == ("IoU of patches 82.3 % (81.2 to 83.4) is below 85.0 %",)
    assert "IoU of crack: not measured" in decided(min_iou={"crack": 0.1}).reasons[0]
    assert len(decided(min_iou=None).criteria) == len(decided().criteria) - len(scores().iou)


def test_speed_counts_only_on_the_required_hardware() -> None:
    assert decided(fps_hardware="epyc").answer == "promoted"
    reasons = decided(fps_hardware="Xeon").reasons
    assert len(reasons) == 2
    assert all("on Xeon" in reason and "not measured" in reason for reason in reasons)
    beside = with_(benchmark__provenance__hardware__gpus=("NVIDIA H100",))
    assert decided(beside, fps_hardware="H100").answer == "rejected"  # the figure is the CPU's
    assert decided(beside, fps_hardware="EPYC").answer == "promoted"
    benchmark = change(beside.benchmark, runtimes={DEPLOYED: change(SPEED, device="cuda")})
    on_gpu = Measurements(**vars(beside) | {"benchmark": benchmark})
    assert decided(on_gpu, fps_hardware="H100").answer == "promoted"
    assert decided(on_gpu, fps_hardware="EPYC").answer == "rejected"


def test_leak_may_be_allowed() -> None:
    assert decided(with_(split__leak_rate={"val": 1.0, "test": 1.0}), allow_leak=True).answer == "promoted"
