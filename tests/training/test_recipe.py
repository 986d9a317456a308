import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbrnet.training.recipe import Recipe, Schedule
from tests.sections import PARAMS
from tests.training.conftest import RECIPE


def schedule(kind: Schedule, warmup: int = 10, steps: int = 100, base: float = 0.01) -> Recipe:
    update = {"schedule": kind, "warmup_steps": warmup, "steps": steps, "learning_rate": base}
    return RECIPE.model_copy(update=update)


@pytest.mark.parametrize(
    ("recipe", "rates"),  # iteration -> rate
    [
        (schedule("linear"), {0: 0.001, 5: 0.0055, 10: 0.01}),  # warms up from a tenth
        (schedule("linear"), {55: 0.005, 99: 0.01 / 90, 100: 0}),  # reaches zero after the last iteration
        (schedule("poly", warmup=0), {50: 0.01 * 0.5**0.9}),
    ],
)
def test_the_rate_warms_up_and_decays(recipe: Recipe, rates: dict[int, float]) -> None:
    assert {step: recipe.rate(step) for step in rates} == pytest.approx(rates)


@given(st.integers(1, 1000), st.integers(0, 1200), st.sampled_from(["linear", "poly"]), st.floats(1e-6, 1))
def test_the_rate_stays_real_and_between_zero_and_base(total: int, warmup: int, kind: Schedule, base: float) -> None:
    for step in {0, total // 2, total - 1, total, total + 5}:  # the released code's turned complex past the end
        rate = schedule(kind, warmup, total, base).rate(step)
        assert isinstance(rate, float)
        assert 0 <= rate <= base * (1 + 1e-9)


def test_the_fingerprint_depends_on_recipe_content_and_splits() -> None:
    train, val = {"a": "1", "b": "1"}, {"c": "2", "d": "2"}
    own = RECIPE.fingerprint("hash", train, val)
    without_affm = RECIPE.model.model_copy(update={"affm": False})
    others = {
        RECIPE.model_copy(update={"steps": 4}).fingerprint("hash", train, val),
        RECIPE.model_copy(update={"model": without_affm}).fingerprint("hash", train, val),
        RECIPE.fingerprint("other", train, val),
        RECIPE.fingerprint("hash", {"b": "1"}, val),
        RECIPE.fingerprint("hash", train | {"c": "2"}, {"d": "2"}),
        RECIPE.fingerprint("hash", {"a": "1", "b": "3"}, val),
        RECIPE.fingerprint("hash", train, val, "the start's digest"),
    }
    assert own not in others
    assert len(others) == 7


def test_only_fields_of_the_recipe_affect_the_fingerprint() -> None:
    """What params.yaml's section adds to the recipe may change between a kill and the resumption."""
    section = PARAMS.train
    added = set(type(section).model_fields) - set(Recipe.model_fields)
    assert added == {"workers", "checkpoint_seconds", "nodes", "processes_per_node"}
    changed = section.model_copy(update=dict.fromkeys(added, 7))
    assert changed.fingerprint("hash", {"a": "1"}, {"b": "2"}) == section.fingerprint("hash", {"a": "1"}, {"b": "2"})
