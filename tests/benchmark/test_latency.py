import numpy as np
import pytest

from dbrnet.benchmark.latency import NOISY, Latency, spread, times_as_fast


def test_a_summary_of_known_durations_is_right() -> None:
    latency = Latency.from_seconds([0.010] * 98 + [0.020, 0.520])
    assert latency.runs == 100
    assert latency.p50_ms == latency.p90_ms == pytest.approx(10)
    assert 20 < latency.p99_ms < 520
    assert (latency.min_ms, latency.max_ms) == pytest.approx((10, 520))
    assert latency.mean_ms == pytest.approx(15.2)
    assert latency.to_dict()["fps"] == pytest.approx(1000 / 15.2)


def test_a_drift_cancels_out_of_the_ratio_of_pairs() -> None:
    drift = np.linspace(1, 3, 12)
    ratio = times_as_fast(own=list(0.010 * drift), other=list(0.025 * drift))
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2.5, 2.5, 2.5))
    assert str(ratio) == "2.50 (2.50 to 2.50)"


def test_the_interval_is_that_of_the_sign_test() -> None:
    ten = times_as_fast(own=[1.0] * 10, other=[float(n) for n in range(1, 11)])
    assert (ten.low, ten.value, ten.high) == (2, 5.5, 9)  # from the 2nd to the 9th: 97.9 %
    assert times_as_fast([1.0] * 6, [1.0, 2, 3, 4, 5, 6]).low == 1  # all six: 96.9 %


def test_the_interval_has_its_coverage() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        noise = rng.lognormal(0, 0.3, (2, 12))
        ratio = times_as_fast(list(noise[0]), list(2 * noise[1]))
        held += (ratio.low or 0) <= 2 <= (ratio.high or 0)
    assert held / 400 > 0.93


def test_the_spread_differs_for_a_noisy_machine_and_one_blip() -> None:
    assert spread([1.0] * 19 + [9.0]) == 0
    assert spread([1.0, 1.01, 0.99, 1.0]) < NOISY
    assert spread([1.0, 1.5, 1.0, 1.5]) > NOISY
