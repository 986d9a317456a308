import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbrnet.registry.gate import Criterion, Decision, Figure, Threshold, decide

GOOD: dict[str, Any] = {"miou": 0.82, "fps": 31.0, "logits": 2e-4, "equal_pixels": 1.0}
THRESHOLDS = [
    Threshold("miou", "mIoU", "accuracy", 0.75, "at least"),
    Threshold("fps", "frames per second", "speed", 30.0, "at least"),
    Threshold("logits", "largest logit difference from PyTorch", "parity", 1e-3, "at most"),
    Threshold("equal_pixels", "share of pixels equal to PyTorch's", "parity", 0.9999, "at least"),
]


def test_all_criteria_met_promotes() -> None:
    decision = decide(GOOD, THRESHOLDS, "automatic")
    assert decision.answer == "promoted"
    assert decision.reasons == []
    assert [c.asked.name for c in decision.criteria] == ["miou", "fps", "logits", "equal_pixels"]


def test_a_threshold_met_exactly_passes() -> None:
    figures = {"miou": 0.75, "fps": 30.0, "logits": 1e-3, "equal_pixels": 0.9999}
    assert decide(figures, THRESHOLDS, "automatic").answer == "promoted"


@pytest.mark.parametrize(
    ("name", "figure", "reason"),
    [
        ("miou", 0.712, "mIoU 0.712 is below 0.75"),
        ("miou", 0.749999, "mIoU 0.749999 is below 0.75"),
        ("fps", 29.9, "frames per second 29.9 is below 30"),
        ("logits", 0.5, "largest logit difference from PyTorch 0.5 is above 0.001"),
        ("equal_pixels", 0.99, "share of pixels equal to PyTorch's 0.99 is below 0.9999"),
    ],
)
def test_one_failing_figure_rejects_with_its_reason(name: str, figure: float, reason: str) -> None:
    decision = decide(GOOD | {name: figure}, THRESHOLDS, "automatic")
    assert decision.answer == "rejected"
    assert decision.reasons == [reason]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("figure", [None, math.nan, math.inf, -math.inf, "0.9", True, np.float32("nan")])
def test_what_was_not_measured_rejects(name: str, figure: Any) -> None:
    for figures in (GOOD | {name: figure}, {key: value for key, value in GOOD.items() if key != name}):
        decision = decide(figures, THRESHOLDS, "automatic")
        assert decision.answer == "rejected"
        assert len(decision.reasons) == 1
        assert "not measured" in decision.reasons[0]


def test_numpy_figures_count_as_measured() -> None:
    figures = {key: np.float64(value) for key, value in GOOD.items()}
    assert decide(figures, THRESHOLDS, "automatic") == decide(GOOD, THRESHOLDS, "automatic")


def test_a_decision_without_criteria_rejects() -> None:
    assert Decision((), "automatic").answer == "rejected"
    assert Decision((), "automatic").reasons


def test_the_decision_is_strict_json_even_when_a_figure_is_nan() -> None:
    decision = decide(GOOD | {"miou": math.nan}, THRESHOLDS, "automatic")
    document = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert document["answer"] == "rejected"
    assert document["reasons"] == decision.reasons
    assert document["criteria"][0] == {
        "name": "miou",
        "label": "mIoU",
        "topic": "accuracy",
        "figure": None,
        "low": None,
        "high": None,
        "threshold": 0.75,
        "direction": "at least",
        "verdict": "not measured",
        "text": "mIoU: not measured (at least 0.75 is required)",
    }


FIGURE = st.one_of(st.none(), st.floats(), st.floats(0, 2), st.sampled_from([0.75, 30.0, 1e-3, 0.9999, 1.0]))


@given(
    st.dictionaries(st.sampled_from(sorted(GOOD)), FIGURE),
    st.tuples(st.floats(), st.floats(), st.floats(), st.floats()) | st.just((0.75, 30.0, 1e-3, 0.9999)),
)
def test_promoted_means_every_figure_measured_and_met(
    figures: dict[str, float | None], thresholds: tuple[float, float, float, float]
) -> None:
    asked = [replace(t, value=v) for t, v in zip(THRESHOLDS, thresholds, strict=True)]
    decision = decide(figures, asked, "automatic")
    values = [figures.get(name) for name in GOOD]
    met = all(
        value is not None and math.isfinite(value) and (value <= limit if name == "logits" else value >= limit)
        for name, value, limit in zip(GOOD, values, thresholds, strict=True)
    )
    assert (decision.answer == "promoted") == met
    assert (decision.reasons == []) == met


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from(["at least", "at most"]))
def test_a_failure_never_reads_as_a_figure_that_equals_its_threshold(
    figure: float, threshold: float, direction: Any
) -> None:
    criterion = Criterion(Threshold("miou", "mIoU", "accuracy", threshold, direction), Figure(figure))
    texts = criterion.texts
    assert texts[0] != texts[1] or figure == threshold
    if criterion.verdict == "failed":
        assert ("below" if direction == "at least" else "above") in criterion.text


AGAINST = Threshold("champion/miou", "mIoU minus the champion's", "accuracy", -0.01, "at least", by_interval=True)


@pytest.mark.parametrize(
    ("figure", "verdict", "answer"),
    [
        ({"value": 0.002, "low": -0.008, "high": 0.012}, "passed", "promoted"),
        ({"value": 0.002, "low": -0.01, "high": 0.012}, "passed", "promoted"),
        ({"value": 0.002, "low": -0.012, "high": 0.016}, "inconclusive", "needs review"),
        ({"value": -0.02, "low": -0.031, "high": -0.009}, "inconclusive", "needs review"),
        ({"value": -0.03, "low": -0.041, "high": -0.019}, "failed", "rejected"),
        ({"value": 0.002, "low": None, "high": 0.1}, "not measured", "rejected"),
        ({"value": 0.002, "low": -math.inf, "high": 0.1}, "not measured", "rejected"),
        ({"value": None, "low": 0.1, "high": 0.1}, "not measured", "rejected"),
        (0.002, "not measured", "rejected"),
        (None, "not measured", "rejected"),
    ],
)
def test_an_interval_on_both_sides_of_its_threshold_is_for_a_person(figure: object, verdict: str, answer: str) -> None:
    decision = decide(GOOD | {"champion/miou": figure}, [*THRESHOLDS, AGAINST], "automatic")
    assert decision.criteria[-1].verdict == verdict
    assert decision.answer == answer
    assert len(decision.reasons) == (answer != "promoted")


def test_a_failure_weighs_more_than_a_doubt() -> None:
    figures = GOOD | {"champion/miou": {"value": 0.0, "low": -0.1, "high": 0.1}, "fps": 2.0}
    decision = decide(figures, [*THRESHOLDS, AGAINST], "automatic")
    assert decision.answer == "rejected"
    assert decision.reasons == ["frames per second 2 is below 30"]


def test_in_review_mode_what_passes_waits_for_a_person() -> None:
    assert decide(GOOD, THRESHOLDS, "review").answer == "needs review"
    assert decide(GOOD, THRESHOLDS, "review").reasons
    assert decide(GOOD | {"fps": None}, THRESHOLDS, "review").answer == "rejected"


def test_the_interval_is_told() -> None:
    figure = {"value": 0.712, "low": 0.69, "high": 0.734}
    (criterion,) = decide({"miou": figure}, THRESHOLDS[:1], "automatic").criteria
    assert criterion.text == "mIoU 0.712 (0.69 to 0.734) is below 0.75"
