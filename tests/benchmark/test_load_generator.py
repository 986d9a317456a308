"""Load and its statistics, with made-up durations, and a clock that only the model moves."""

from collections.abc import Callable, Iterator
from itertools import chain, count, repeat

import cv2
import numpy as np
import pytest

from dbrnet.benchmark import load_generator
from dbrnet.benchmark.load_generator import (
    Run,
    Stream,
    latency,
    offline,
    single_stream,
    spread,
    take_turns,
    times_as_fast,
    warm_up,
)
from dbrnet.benchmark.measurement import NOISY
from dbrnet.data.dataset import decode_image
from dbrnet.inference.runtimes.base import Answer, Images


class FakeModel:
    """Takes `cost(batch)` seconds of a clock of its own."""

    def __init__(self, cost: Callable[[int], float], monkeypatch: pytest.MonkeyPatch) -> None:
        self.cost, self.now, self.seen = cost, 0.0, list[Images]()
        monkeypatch.setattr(load_generator, "clock", lambda: self.now)

    def predict(self, images: Images) -> Answer:
        self.seen.append(images)
        self.now += self.cost(len(images))
        return np.zeros(images.shape[:3], np.uint8), np.zeros(images.shape[:3], np.float32)


def made_up(durations: Iterator[float], calls: list[str] | None = None, name: str = "") -> Stream:
    def run() -> Run:
        if calls is not None:
            calls.append(name)
        duration = next(durations)
        return Run(duration, duration + 0.001)

    return run


def test_images_come_in_turn_and_both_durations_are_of_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    files = [cv2.imencode(".png", np.full((40, 50, 3), grey))[1].tobytes() for grey in (10, 20, 30)]
    model = FakeModel(lambda batch: 0.25, monkeypatch)
    decode, encode = decode_image, cv2.imencode

    def slow_decode(*arguments: object) -> object:
        model.now += 0.5
        return decode(*arguments)  # type: ignore[arg-type]

    def slow_encode(*arguments: object) -> object:
        model.now += 1
        return encode(*arguments)  # type: ignore[call-overload]

    monkeypatch.setattr(load_generator, "decode_image", slow_decode)
    monkeypatch.setattr(cv2, "imencode", slow_encode)
    stream = single_stream(model.predict, files)
    assert [stream() for _ in range(4)] == [Run(0.25, 1.75)] * 4
    assert [int(images[0, 0, 0, 0]) for images in model.seen] == [10, 20, 30, 10]
    assert model.seen[0].shape == (1, 40, 50, 3)


def test_streams_take_turns_and_a_blocks_first_run_does_not_count() -> None:
    calls: list[str] = []
    pair = {"a": made_up(repeat(0.01), calls, "a"), "b": made_up(repeat(0.04), calls, "b")}
    series = take_turns(pair, seconds=1)
    assert [len(one.blocks) for one in series.values()] == [10, 10]
    turns = [name for place, name in enumerate(calls) if place == 0 or calls[place - 1] != name]
    assert "".join(turns) == "ab" + "ab" + "abababab" + "a"  # warm-ups, then ab, ba, ab, ba and so on
    for name, one in series.items():
        assert 1 <= sum(run.whole for run in one.runs) < 1.5
        assert calls.count(name) == len(one.runs) + len(one.blocks) + one.warm_up.runs
        assert all(run.whole == pytest.approx(run.predict + 0.001) for run in one.runs)


def test_a_drift_changes_both_latencies_but_not_their_ratio() -> None:
    time = count()

    def drifting(cost: float) -> Iterator[float]:
        return (cost * (1 + next(time) / 100) for _ in count())

    series = take_turns({"a": made_up(drifting(0.01)), "b": made_up(drifting(0.03))}, seconds=2)
    ratio = times_as_fast(series["a"].medians, series["b"].medians)
    drifted = latency([run.predict for run in series["a"].runs])
    assert drifted.p99_ms > 2 * drifted.min_ms
    assert ratio.value == pytest.approx(3, rel=0.05)
    assert (ratio.low or 0) < 3 < (ratio.high or 0)


def test_a_slow_streams_blocks_have_one_run() -> None:
    series = take_turns({"slow": made_up(repeat(5.0))}, seconds=1)["slow"]
    assert [len(block) for block in series.blocks] == [1] * 10


def test_the_warm_up_ends_when_durations_settle() -> None:
    falling = chain([60.0], (1 / (1 + step) for step in range(20)), repeat(0.04))
    warmed = warm_up(made_up(falling), least=0, most=1e3)
    assert warmed.steady
    assert 20 < warmed.runs < 40
    assert warmed.seconds < 10, "the first run, which compiles, is not counted"


def test_the_warm_up_is_bounded_on_both_sides() -> None:
    restless = (0.1 * 1.2**step for step in count())
    warmed = warm_up(made_up(restless), least=0, most=2)
    assert not warmed.steady
    assert 2 <= warmed.seconds < 4
    assert warm_up(made_up(repeat(0.01)), least=0.5, most=1).seconds == pytest.approx(0.5)


IMAGES = np.zeros((3, 40, 50, 3), np.uint8)


def test_the_search_for_the_best_batch_ends_where_throughput_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    model = FakeModel(lambda batch: 0.01 + 0.01 * batch + (0.2 if batch > 4 else 0), monkeypatch)
    best = offline(model.predict, IMAGES, seconds=0.1, image_bytes=0)
    assert best.batch == 4
    assert best.images_per_second == pytest.approx(4 / 0.05)
    assert list(best.tried) == [1, 2, 4, 8]
    assert best.ended == "a batch of 8 was slower"
    assert model.seen[-1].shape == (8, 40, 50, 3)


@pytest.mark.parametrize(
    ("fits", "image_bytes", "best", "ended"),
    [
        (2, 0, 2, "a batch of 4 could not be run (CUDA out of memory)"),
        (64, 2**60, 1, "a batch of 2 might need more than half of the free memory"),
        (64, 0, 16, "all were tried"),
    ],
)
def test_the_search_ends_where_memory_does(
    fits: int, image_bytes: int, best: int, ended: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cost(batch: int) -> float:
        if batch > fits:
            raise RuntimeError("CUDA out of memory\nmore")
        return 0.1

    found = offline(FakeModel(cost, monkeypatch).predict, IMAGES, seconds=0.1, image_bytes=image_bytes)
    assert (found.batch, max(found.tried), found.ended) == (best, best, ended)


def test_a_single_image_that_cannot_be_run_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def cost(batch: int) -> float:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        offline(FakeModel(cost, monkeypatch).predict, IMAGES, seconds=0.1, image_bytes=0)


def test_a_summary_of_known_durations_is_right() -> None:
    summary = latency([0.010] * 98 + [0.020, 0.520])
    assert summary.runs == 100
    assert summary.p50_ms == summary.p90_ms == pytest.approx(10)
    assert 20 < summary.p99_ms < 520
    assert (summary.min_ms, summary.max_ms, summary.mean_ms) == pytest.approx((10, 520, 15.2))
    assert summary.fps == pytest.approx(1000 / 15.2)


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
