"""The gate on plain figures: what passes, fails, is inconclusive or was not measured."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbrnet.records import Decision, Direction, Estimate, Unit
from dbrnet.registry.gate import Threshold, decide

UNITS: dict[str, Unit] = {"miou": "share", "fps": "fps", "logits": "number", "equal_pixels": "share"}
GOOD = {"miou": 0.82, "fps": 31.0, "logits": 2e-4, "equal_pixels": 1.0}
THRESHOLDS = [
    Threshold("miou", "mIoU", "accuracy", 0.75, "share", "at least"),
    Threshold("fps", "frames per second", "speed", 30.0, "fps", "at least"),
    Threshold("logits", "largest logit difference from PyTorch", "parity", 1e-3, "number", "at most"),
    Threshold("equal_pixels", "share of pixels equal to PyTorch's", "parity", 0.9999, "share", "at least"),
]


def estimates(values: dict[str, float | None]) -> dict[str, Estimate]:
    return {name: Estimate(value=value, unit=UNITS[name]) for name, value in values.items()}


def decided(**changes: float | None) -> Decision:
    return decide(estimates({**GOOD, **changes}), THRESHOLDS, "automatic")


def test_promotes_where_every_criterion_passes() -> None:
    decision = decided()
    assert (decision.answer, decision.reasons) == ("promoted", ())
    assert [criterion.name for criterion in decision.criteria] == list(GOOD)
    assert decided(miou=0.75, fps=30.0, logits=1e-3, equal_pixels=0.9999).answer == "promoted"  # met exactly


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("miou", 0.712, "mIoU 71.2 % is below 75.0 %"),
        ("miou", 0.749999, "mIoU 74.9999 % is below 75.0000 %"),
        ("fps", 29.9, "frames per second 29.9 is below 30.0"),
        ("logits", 0.5, "largest logit difference from PyTorch 0.5 is above 0.001"),
        ("equal_pixels", 0.99, "share of pixels equal to PyTorch's 99.00 % is below 99.99 %"),
    ],
)
def test_rejects_with_reason_where_one_figure_fails(name: str, value: float, reason: str) -> None:
    decision = decided(**{name: value})
    assert (decision.answer, decision.reasons) == ("rejected", (reason,))


@pytest.mark.parametrize("name", GOOD)
def test_rejects_where_a_figure_was_not_measured(name: str) -> None:
    missing = {key: value for key, value in GOOD.items() if key != name}
    for figures in (estimates({**GOOD, name: None}), estimates({**missing})):
        decision = decide(figures, THRESHOLDS, "automatic")
        assert decision.answer == "rejected"
        (reason,) = decision.reasons
        assert "not measured" in reason


def test_rejects_without_criteria() -> None:
    decision = decide(estimates({**GOOD}), [], "automatic")
    assert decision.answer == "rejected"
    assert decision.reasons


def test_criteria_are_written_as_json() -> None:
    document = json.loads(decided(miou=None).model_dump_json())
    assert document["answer"] == "rejected"
    assert document["criteria"][0] == {
        "name": "miou",
        "label": "mIoU",
        "topic": "accuracy",
        "figure": {"value": None, "low": None, "high": None, "unit": "share"},
        "threshold": 0.75,
        "direction": "at least",
        "verdict": "not measured",
        "figure_text": "–",
        "threshold_text": "75.0 %",
        "text": "mIoU: not measured (at least 75.0 % is required)",
    }


NUMBER = st.floats(allow_nan=False, allow_infinity=False)  # all that a record may hold
FIGURE = st.none() | NUMBER | st.floats(0, 2) | st.sampled_from([0.75, 30.0, 1e-3, 0.9999, 1.0])
LIMITS = st.tuples(*[NUMBER] * 4) | st.just((0.75, 30.0, 1e-3, 0.9999))


@given(st.dictionaries(st.sampled_from(sorted(GOOD)), FIGURE), LIMITS)
def test_promotes_exactly_where_every_figure_was_measured_and_met(
    figures: dict[str, float | None], limits: tuple[float, float, float, float]
) -> None:
    thresholds = [replace(threshold, value=limit) for threshold, limit in zip(THRESHOLDS, limits, strict=True)]
    decision = decide(estimates(figures), thresholds, "automatic")
    unmet = []
    for threshold, criterion in zip(thresholds, decision.criteria, strict=True):
        value, sign = figures.get(threshold.name), -1 if threshold.direction == "at most" else 1
        if value is None or sign * value < sign * threshold.value:
            unmet.append(criterion.text)
    assert decision.reasons == tuple(unmet)
    assert (decision.answer == "promoted") == (not unmet)


@given(*[st.floats(-1e300, 1e300) | st.floats(-1, 1)] * 2, st.sampled_from(["at least", "at most"]))
def test_text_tells_figure_and_threshold_apart(value: float, limit: float, direction: Direction) -> None:
    threshold = Threshold("miou", "mIoU", "accuracy", limit, "share", direction)
    criterion = threshold.judge(Estimate(value=value, unit="share"))
    assert criterion.figure_text != criterion.threshold_text or abs(value - limit) < 1e-15
    if criterion.verdict == "failed":
        assert ("below" if direction == "at least" else "above") in criterion.text


AGAINST = Threshold("difference", "mIoU minus the champion's", "accuracy", -0.01, "points", "at least", True)


@pytest.mark.parametrize(
    ("value", "low", "high", "verdict", "answer"),
    [
        (0.002, -0.008, 0.012, "passed", "promoted"),
        (0.002, -0.01, 0.012, "passed", "promoted"),
        (0.002, -0.012, 0.016, "inconclusive", "needs review"),
        (-0.02, -0.031, -0.009, "inconclusive", "needs review"),
        (-0.03, -0.041, -0.019, "failed", "rejected"),
        (0.002, None, 0.1, "not measured", "rejected"),
        (None, 0.1, 0.1, "not measured", "rejected"),
        (0.002, None, None, "not measured", "rejected"),
        (None, None, None, "not measured", "rejected"),
    ],
)
def test_interval_on_both_sides_of_its_threshold_needs_review(
    value: float | None, low: float | None, high: float | None, verdict: str, answer: str
) -> None:
    figure = Estimate(value=value, low=low, high=high, unit="points")
    decision = decide({**estimates({**GOOD}), "difference": figure}, [*THRESHOLDS, AGAINST], "automatic")
    assert decision.criteria[-1].verdict == verdict
    assert decision.answer == answer
    assert len(decision.reasons) == (answer != "promoted")


def test_failure_outweighs_inconclusive() -> None:
    unclear = Estimate(value=0.0, low=-0.1, high=0.1, unit="points")
    figures = {**estimates({**GOOD, "fps": 2.0}), "difference": unclear}
    decision = decide(figures, [*THRESHOLDS, AGAINST], "automatic")
    assert (decision.answer, decision.reasons) == ("rejected", ("frames per second 2.0 is below 30.0",))


def test_review_mode_needs_a_person_for_what_passes() -> None:
    figures = estimates({**GOOD})
    assert decide(figures, THRESHOLDS, "review").answer == "needs review"
    assert decide(figures, THRESHOLDS, "review").reasons
    assert decide(estimates({**GOOD, "fps": None}), THRESHOLDS, "review").answer == "rejected"


def test_text_holds_the_interval() -> None:
    figure = Estimate(value=0.712, low=0.69, high=0.734, unit="share")
    (criterion,) = decide({"miou": figure}, THRESHOLDS[:1], "automatic").criteria
    assert criterion.text == "mIoU 71.2 % (69.0 to 73.4) is below 75.0 %"
