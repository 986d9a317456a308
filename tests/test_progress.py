"""Progress of long work, and `ordered_map`: order, bounded work ahead, errors."""

from collections.abc import Iterator

import pytest

from dbrnet import progress as module
from dbrnet.errors import UserError
from dbrnet.parallel import ordered_map
from dbrnet.progress import duration, progress


def test_hands_on_each_item_and_is_silent_while_there_is_little_to_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(iter("abc"), 3, "reading")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_in_a_log_long_work_tells_plain_lines(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    list(progress(range(2), 2, "reading"))
    assert capsys.readouterr() == (
        "",
        "reading: 1 of 2, 0 s elapsed, about 0 s left\nreading: 2 of 2, 0 s elapsed, about 0 s left\n",
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min 00 s"), (3599, "59 min 59 s"), (12000, "3 h 20 min")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text


class Numbers:
    """The numbers below 10,000; counts how many were taken."""

    taken = 0

    def __iter__(self) -> Iterator[int]:
        for number in range(10_000):
            self.taken += 1
            yield number


def test_results_come_in_order_and_few_are_computed_ahead() -> None:
    numbers, ahead = Numbers(), []
    for index, result in enumerate(ordered_map(lambda number: number * 2, numbers)):
        assert result == index * 2
        ahead.append(numbers.taken - index)
    assert len(ahead) == 10_000
    assert max(ahead) <= 40


def test_error_is_raised_in_its_turn_and_ends_the_work() -> None:
    started = []

    def fail_at_five(number: int) -> int:
        started.append(number)
        if number == 5:
            raise UserError("five")
        return number

    results = ordered_map(fail_at_five, Numbers())
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="five"):
        next(results)
    assert len(started) <= 50
