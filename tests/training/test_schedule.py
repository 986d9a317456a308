import pytest
from hypothesis import given
from hypothesis import strategies as st

from dbrnet.training.schedule import Schedule, learning_rate


def test_warms_up_linearly_from_a_tenth() -> None:
    rates = [learning_rate(step, 100, 0.01, 10, "linear") for step in range(11)]
    assert rates[0] == pytest.approx(0.001)
    assert rates[5] == pytest.approx(0.0055)
    assert rates[10] == pytest.approx(0.01)


def test_linear_decay_reaches_zero_after_the_last_iteration() -> None:
    assert learning_rate(55, 100, 0.01, 10, "linear") == pytest.approx(0.005)
    assert learning_rate(99, 100, 0.01, 10, "linear") == pytest.approx(0.01 / 90)
    assert learning_rate(100, 100, 0.01, 10, "linear") == 0


def test_poly_decay_has_the_power_nine_tenths() -> None:
    assert learning_rate(50, 100, 0.01, 0, "poly") == pytest.approx(0.01 * 0.5**0.9)


@given(st.integers(1, 500), st.integers(0, 600), st.sampled_from(["linear", "poly"]), st.floats(1e-6, 1.0))
def test_stays_real_and_between_zero_and_base(total: int, warmup: int, kind: Schedule, base: float) -> None:
    for step in {0, total // 2, total - 1, total, total + 5}:  # the released code's turned complex past the end
        rate = learning_rate(step, total, base, warmup, kind)
        assert isinstance(rate, float)
        assert 0 <= rate <= base * (1 + 1e-9)
