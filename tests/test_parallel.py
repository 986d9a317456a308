"""`ordered_map`: order, bounded work ahead, errors."""

from collections.abc import Iterator

import pytest

from dbrnet.errors import UserError
from dbrnet.parallel import ordered_map


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
