import os

import pytest
import torch

from dbrnet.training.watch import Pace, nothing_found


@pytest.mark.parametrize(
    ("found", "step", "said"),
    [(0.0, 25, True), (None, 100, True), (1e-4, 25, True), (0.0, 24, False), (0.01, 100, False)],
)
def test_a_training_that_finds_nothing_says_so(found: float | None, step: int, *, said: bool) -> None:
    line = nothing_found({"background": 0.98, "dent": 0.0, "crack": found}, step, 100)
    assert (line is not None) == said
    if line:
        assert line.startswith(f"no defect of any class was found on validation after {step} of 100 iterations")
        assert "train.start: generated" in line


def test_nothing_can_be_found_where_validation_has_no_defect() -> None:
    assert nothing_found({"background": 0.98, "dent": None, "crack": None}, 100, 100) is None


def first_line(seconds: list[float]) -> tuple[int, str] | None:
    pace = Pace()
    return next(((place, line) for place, one in enumerate(seconds) if (line := pace.add(one))), None)


def test_a_machine_that_becomes_busy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    steady, slow = [0.5] * 30, [3.0] * 20
    assert first_line([*steady, 9.0, 9.0, *steady]) is None  # a hiccup, such as a validation
    place, line = first_line(steady + slow) or pytest.fail("nothing was said")
    assert 30 < place < 40
    assert "an iteration takes 3.0 s (at best 0.5 s)" in line


@pytest.mark.parametrize(("threads", "said"), [(1, False), (2, True)])
def test_a_machine_that_is_busy_from_the_start(monkeypatch: pytest.MonkeyPatch, threads: int, *, said: bool) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (40.0, 40.0, 40.0))
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = first_line([6.0] * 12)
    assert (found is not None) == said
    if found:
        assert "an iteration takes 6.0 s; beside" in found[1]  # without a better time to compare with
