"""Intervals of figures and differences: against a plain loop and known truths, and for what must not change them."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dbrnet.evaluation import bootstrap
from dbrnet.evaluation.bootstrap import estimate
from dbrnet.evaluation.figures import compare, estimates, figures, group_counts
from dbrnet.evaluation.predictions import Evaluation
from dbrnet.records import Estimate
from tests.evaluation.random_masks import NAMES, evaluation, results, width
from tests.evaluation.test_figures import flat

Counts = NDArray[np.int64]
OTHER: Any = {"runtime": "onnxruntime-cpu", "seen": None}


def share(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    with np.errstate(invalid="ignore"):
        return {"share": sums[:, 0] / sums[:, 1]}


def test_intervals_equal_a_plain_loop_over_the_resamples() -> None:
    whole = evaluation(range(20), groups=9)
    rows = group_counts(whole)
    found = estimate(rows, lambda sums: figures(sums, NAMES), confidence=0.8, resamples=400, seed=5)
    draws = np.random.default_rng(5).integers(0, 9, (400, 9))
    resamples = [flat(np.stack([rows[group] for group in draw])) for draw in draws]
    assert flat(rows) == {name: one.value for name, one in found.items()}
    seen = 0
    for name, one in found.items():
        values = [value for resample in resamples if (value := resample[name]) is not None]
        if one.value is None or len(values) < 360:
            assert (one.low, one.high) == (None, None)
        else:
            assert [one.low, one.high] == np.quantile(values, [(1 - 0.8) / 2, 0.9]).tolist()  # to the bit
            seen += 1
    assert seen > 20


def test_bits_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = group_counts(evaluation(range(12), groups=7))

    def run(seed: int) -> dict[str, Estimate]:
        return estimate(rows, lambda sums: figures(sums, NAMES), confidence=0.95, resamples=500, seed=seed)

    first = run(1)
    assert run(1) == first
    assert run(2) != first
    monkeypatch.setattr(bootstrap, "CHUNK", 1)  # a resample at a time
    assert run(1) == first


def steel(random: np.random.Generator, groups: int, images: int) -> Counts:
    """Hits and pixels [G, P, 2] of groups that differ in difficulty and size; E[hits] / E[pixels] is 0.6."""
    skill = random.beta(3, 2, (groups, 1))
    pixels = random.integers(200, 2000, (groups, 1)).repeat(images, 1)
    return np.stack([random.binomial(pixels, skill), pixels], axis=2).astype(np.int64)


def test_group_intervals_have_their_coverage_and_image_intervals_do_not() -> None:
    random = np.random.default_rng(0)
    held = np.zeros(2)
    for seed in range(200):
        counts = steel(random, groups=60, images=6)
        for place, rows in enumerate((counts.sum(axis=1), counts.reshape(-1, 2))):
            one = estimate(rows, share, confidence=0.95, resamples=1000, seed=seed)["share"]
            assert one.low is not None
            assert one.high is not None
            held[place] += one.low <= 0.6 <= one.high
    by_groups, by_images = held / 200
    assert 0.91 <= by_groups <= 0.985
    assert by_images < 0.75  # too narrow: images of one group are not independent


def test_copies_within_a_group_do_not_change_the_interval() -> None:
    whole = evaluation(range(12), groups=6)
    doubled = Evaluation(NAMES, tuple(one for image in whole.images for one in (image, image)))
    assert estimates(doubled, 0.95) == estimates(whole, 0.95)


def test_one_group_has_a_value_and_no_interval() -> None:
    assert estimate(np.array([[3, 4]]), share, confidence=0.95)["share"] == Estimate(value=0.75, unit="share")
    with pytest.raises(ValueError, match="no group"):
        estimate(np.zeros((0, 2), np.int64), share, confidence=0.95)


@pytest.mark.parametrize(("holding", "has"), [(2, False), (3, True)])
def test_a_figure_that_too_few_groups_hold_has_no_interval(holding: int, has: bool) -> None:
    """A resample lacks 2 of 60 groups with probability (58/60)^60 = 13 %, and 3 of them with 4.6 %."""
    rows = np.zeros((60, 2), np.int64)
    rows[:holding] = [1, 2]
    one = estimate(rows, share, confidence=0.95)["share"]
    assert one.value == 0.5
    assert (one.low is not None) == has
    assert estimate(rows * 0, share, confidence=0.95)["share"] == Estimate(value=None, unit="share")


def test_the_paired_difference_has_a_narrower_interval() -> None:
    random = np.random.default_rng(0)
    hard = random.integers(5, 45, 80)  # what makes an image hard does so for both
    candidate, champion = (results((hard + random.integers(-3, 4, 80)).tolist()) for _ in range(2))
    comparison = compare(candidate, champion, confidence=0.95, **OTHER)
    own = estimates(candidate, 0.95)["miou"]
    other, difference = comparison.figures["miou"], comparison.difference["miou"]
    assert difference.value == pytest.approx(own.value - other.value)  # type: ignore[operator]
    assert width(difference) < np.hypot(width(own), width(other)) / 3


def test_both_models_are_scored_as_each_alone() -> None:
    candidate, champion = evaluation(range(10), 5), evaluation(range(10), 5)
    same = compare(candidate, champion, confidence=0.9, **OTHER)
    assert same.figures == estimates(champion, 0.9)
    for name, one in same.difference.items():
        assert one.value in (None, 0), name
        assert one.low in (None, 0)
    other = Evaluation(NAMES, tuple(reversed(champion.images)))
    with pytest.raises(ValueError, match="same images"):
        compare(candidate, other, confidence=0.9, **OTHER)
