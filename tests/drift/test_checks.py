"""The statistics of drift: properties of the distances, and how often unchanged data exceed the chance bounds."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from dbrnet.drift.checks import (
    FALSE_ALARMS,
    Values,
    class_balance,
    compare_classes,
    compare_values,
    exceeds,
    group_weights,
    js_distance,
    ks_distance,
)

Labels = list[tuple[int, ...]]

samples = st.lists(st.integers(-5, 5), min_size=1, max_size=30).map(lambda values: np.array(values, float))
balances = st.lists(st.integers(0, 20), min_size=4, max_size=4).filter(any).map(lambda v: np.array(v) / sum(v))


def even(values: Values) -> Values:
    return np.full(len(values), 1 / len(values))


def names(count: int) -> list[str]:
    return [f"g{index}" for index in range(count)]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # about its p-value, which is not used
@given(samples, samples)
def test_ks_distance_without_groups_equals_scipys(first: Values, second: Values) -> None:
    distance = ks_distance(first, even(first), second, even(second))
    assert 0 <= distance <= 1
    assert distance == pytest.approx(ks_2samp(first, second, method="asymp").statistic)


@given(samples, samples, st.integers(2, 4))
def test_copies_within_a_group_change_nothing(first: Values, second: Values, copies: int) -> None:
    groups, others = names(len(first)), names(len(second))
    once = compare_values(first, groups, second, others, comparisons=1)
    many = compare_values(np.repeat(first, copies), np.repeat(groups, copies).tolist(), second, others, comparisons=1)
    assert many.distance == pytest.approx(once.distance)
    assert (many.chance, many.groups) == (once.chance, once.groups)


@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=30))
def test_groups_have_equal_weights(groups: list[str]) -> None:
    weights = group_weights(groups)
    for group in set(groups):
        held = [weight for weight, name in zip(weights, groups, strict=True) if name == group]
        assert sum(held) == pytest.approx(1 / len(set(groups)))
        assert max(held) == min(held)


@given(balances, balances)
def test_js_distance_is_symmetric_and_between_0_and_1(first: Values, second: Values) -> None:
    assert 0 <= js_distance(first, second) <= 1
    assert js_distance(first, second) == pytest.approx(js_distance(second, first))
    assert js_distance(first, first) == 0
    discrimination = sum((p - q) ** 2 / (p + q) for p, q in zip(first, second, strict=True) if p + q)
    assert js_distance(first, second) ** 2 <= discrimination / 2 + 1e-9  # what the chance bound rests on
    apart = np.concatenate((first, np.zeros(4))), np.concatenate((np.zeros(4), second))
    assert js_distance(*apart) == pytest.approx(1)


def test_class_balance_divides_images_among_classes_and_groups_among_images() -> None:
    labels: Labels = [(), (1,), (1, 2), (2,), (2,)]
    balance = class_balance(labels, ["a", "b", "c", "d", "d"], 4)
    assert balance.tolist() == pytest.approx([0.25, 0.375, 0.375, 0])


def test_chance_bound_falls_with_groups_and_rises_with_comparisons() -> None:
    def chance(groups: int, comparisons: int = 1) -> float:
        values = np.zeros(groups)
        return compare_values(values, names(groups), values, names(groups), comparisons=comparisons).chance

    assert 1 >= chance(3) > chance(30) > chance(300) > 0
    assert chance(30, 5) > chance(30, 1)
    assert chance(1) == 1
    assert not exceeds(compare_values(np.zeros(1), ["a"], np.ones(1), ["b"], comparisons=1), 0)


def alarms(draws: int, alarm: Callable[[np.random.Generator], bool]) -> float:
    return sum(alarm(np.random.default_rng(seed)) for seed in range(draws)) / draws


def near_copies(rng: np.random.Generator, groups: int) -> tuple[Values, list[str]]:
    """Groups of one to six images that are nearly the same."""
    sizes = rng.integers(1, 7, groups)
    values = np.repeat(rng.normal(size=groups), sizes) + rng.normal(0, 0.05, sizes.sum())
    return values, np.repeat(names(groups), sizes).tolist()


def test_unchanged_values_rarely_exceed_chance_unless_copies_count_as_evidence() -> None:
    def alarm(rng: np.random.Generator, *, grouped: bool) -> bool:
        sides = [near_copies(rng, 60) for _ in range(2)]
        (first, groups), (second, others) = (
            (values, held if grouped else names(len(values))) for values, held in sides
        )
        return exceeds(compare_values(first, groups, second, others, comparisons=1), 0)

    assert alarms(500, lambda rng: alarm(rng, grouped=True)) <= 2 * FALSE_ALARMS
    assert alarms(500, lambda rng: alarm(rng, grouped=False)) > 10 * FALSE_ALARMS


@pytest.mark.parametrize("groups", [40, 400])
@pytest.mark.parametrize("shares", [(0.4, 0.3, 0.2, 0.1), (0.96, 0.02, 0.01, 0.01)])
def test_unchanged_balances_rarely_exceed_chance(groups: int, shares: Sequence[float]) -> None:
    def alarm(rng: np.random.Generator) -> bool:
        labels: list[Labels] = [
            [(int(label),) if label else () for label in rng.choice(4, groups, p=shares)] for _ in range(2)
        ]
        held = names(groups)
        return exceeds(compare_classes(labels[0], held, labels[1], held, classes=4), 0)

    assert alarms(500, alarm) <= 2 * FALSE_ALARMS


def test_real_shifts_exceed_chance() -> None:
    def shifted(rng: np.random.Generator) -> bool:
        (first, groups), (second, others) = near_copies(rng, 60), near_copies(rng, 60)
        return exceeds(compare_values(first, groups, second + 1.5, others, comparisons=5), 0.25)

    def unbalanced(rng: np.random.Generator) -> bool:
        labels: list[Labels] = [[(1,) if one else () for one in rng.random(100) < p] for p in (0.1, 0.4)]
        return exceeds(compare_classes(labels[0], names(100), labels[1], names(100), classes=2), 0.1)

    assert alarms(200, shifted) >= 0.99
    assert alarms(200, unbalanced) >= 0.95
