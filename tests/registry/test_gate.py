import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbrnet.registry.gate import Criterion, Decision, Threshold, decide

GOOD: dict[str, Any] = {"miou": 0.82, "fps": 31.0, "logits": 2e-4, "equal_pixels": 1.0}
THRESHOLDS = [
    Threshold("miou", "mIoU", 0.75, "at least"),
    Threshold("fps", "frames per second", 30.0, "at least"),
    Threshold("logits", "largest logit difference from PyTorch", 1e-3, "at most"),
    Threshold("equal_pixels", "share of pixels equal to PyTorch's", 0.9999, "at least"),
]


def test_all_criteria_met_promotes() -> None:
    decision = decide(GOOD, THRESHOLDS)
    assert decision.answer == "promoted"
    assert decision.reasons == []
    assert [c.name for c in decision.criteria] == ["miou", "fps", "logits", "equal_pixels"]


def test_a_threshold_met_exactly_passes() -> None:
    figures = {"miou": 0.75, "fps": 30.0, "logits": 1e-3, "equal_pixels": 0.9999}
    assert decide(figures, THRESHOLDS).answer == "promoted"


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
    decision = decide(GOOD | {name: figure}, THRESHOLDS)
    assert decision.answer == "rejected"
    assert decision.reasons == [reason]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("figure", [None, math.nan, math.inf, -math.inf, "0.9", True, np.float32("nan")])
def test_what_was_not_measured_rejects(name: str, figure: Any) -> None:
    for figures in (GOOD | {name: figure}, {key: value for key, value in GOOD.items() if key != name}):
        decision = decide(figures, THRESHOLDS)
        assert decision.answer == "rejected"
        assert len(decision.reasons) == 1
        assert "not measured" in decision.reasons[0]


def test_numpy_figures_count_as_measured() -> None:
    figures = {key: np.float64(value) for key, value in GOOD.items()}
    assert decide(figures, THRESHOLDS) == decide(GOOD, THRESHOLDS)


def test_a_decision_without_criteria_rejects() -> None:
    assert Decision(()).answer == "rejected"


def test_the_decision_is_strict_json_even_when_a_figure_is_nan() -> None:
    decision = decide(GOOD | {"miou": math.nan}, THRESHOLDS)
    document = json.loads(json.dumps(decision.to_dict(), allow_nan=False))
    assert document["answer"] == "rejected"
    assert document["reasons"] == decision.reasons
    assert document["criteria"][0] == {
        "name": "miou",
        "figure": None,
        "threshold": 0.75,
        "direction": "at least",
        "passed": False,
        "verdict": "mIoU: not measured (at least 0.75 is required)",
    }


FIGURE = st.one_of(st.none(), st.floats(), st.floats(0, 2), st.sampled_from([0.75, 30.0, 1e-3, 0.9999, 1.0]))


@given(
    st.dictionaries(st.sampled_from(sorted(GOOD)), FIGURE),
    st.tuples(st.floats(), st.floats(), st.floats(), st.floats()) | st.just((0.75, 30.0, 1e-3, 0.9999)),
)
def test_promoted_means_every_figure_measured_and_met(
    figures: dict[str, float | None], thresholds: tuple[float, float, float, float]
) -> None:
    decision = decide(figures, [replace(t, value=v) for t, v in zip(THRESHOLDS, thresholds, strict=True)])
    values = [figures.get(name) for name in GOOD]
    met = all(
        value is not None
        and math.isfinite(value)
        and (value <= limit if name == "logits" else value >= limit)
        for name, value, limit in zip(GOOD, values, thresholds, strict=True)
    )
    assert (decision.answer == "promoted") == met
    assert (decision.reasons == []) == met


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.sampled_from(["at least", "at most"]))
def test_a_failure_never_reads_as_a_figure_that_equals_its_threshold(
    figure: float, threshold: float, direction: Any
) -> None:
    criterion = Criterion("miou", "mIoU", figure, threshold, direction)
    texts = criterion.texts
    assert texts[0] != texts[1] or figure == threshold
    if not criterion.passed:
        assert ("below" if direction == "at least" else "above") in criterion.verdict
