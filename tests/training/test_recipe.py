import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbrnet.training.recipe import Recipe, Schedule, learning_rate
from tests.sections import PARAMS
from tests.training.conftest import RECIPE


def test_warms_up_linearly_from_a_tenth() -> None:
    rates = [learning_rate(step, 100, 0.01, 10, "linear") for step in range(11)]
    assert [rates[step] for step in (0, 5, 10)] == pytest.approx([0.001, 0.0055, 0.01])


def test_linear_decay_reaches_zero_after_the_last_iteration() -> None:
    rates = [learning_rate(step, 100, 0.01, 10, "linear") for step in (55, 99, 100)]
    assert rates == pytest.approx([0.005, 0.01 / 90, 0])


def test_poly_decay_has_the_power_nine_tenths() -> None:
    assert learning_rate(50, 100, 0.01, 0, "poly") == pytest.approx(0.01 * 0.5**0.9)


@given(st.integers(1, 500), st.integers(0, 600), st.sampled_from(["linear", "poly"]), st.floats(1e-6, 1.0))
def test_the_rate_stays_real_and_between_zero_and_base(total: int, warmup: int, kind: Schedule, base: float) -> None:
    for step in {0, total // 2, total - 1, total, total + 5}:  # the released code's turned complex past the end
        rate = learning_rate(step, total, base, warmup, kind)
        assert isinstance(rate, float)
        assert 0 <= rate <= base * (1 + 1e-9)


def test_the_fingerprint_depends_on_recipe_content_and_splits() -> None:
    train_ids, val_ids = ["a", "b"], ["c", "d"]
    own = RECIPE.fingerprint("hash", train_ids, val_ids)
    without_affm = RECIPE.model.model_copy(update={"affm": False})
    others = {
        RECIPE.model_copy(update={"epochs": 4}).fingerprint("hash", train_ids, val_ids),
        RECIPE.model_copy(update={"model": without_affm}).fingerprint("hash", train_ids, val_ids),
        RECIPE.fingerprint("other", train_ids, val_ids),
        RECIPE.fingerprint("hash", train_ids[1:], val_ids),
        RECIPE.fingerprint("hash", [*train_ids, val_ids[0]], val_ids[1:]),
    }
    assert own not in others
    assert len(others) == 5


def test_only_fields_of_the_recipe_affect_the_fingerprint() -> None:
    """What params.yaml's section adds to the recipe may change between a kill and the resumption."""
    section = PARAMS.train
    added = set(type(section).model_fields) - set(Recipe.model_fields)
    assert added == {"workers", "checkpoint_seconds", "nodes", "processes_per_node"}
    changed = section.model_copy(update=dict.fromkeys(added, 7))
    assert changed.fingerprint("hash", ["a"], ["b"]) == section.fingerprint("hash", ["a"], ["b"])
