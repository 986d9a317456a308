from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dbrnet.data.writer import count_classes
from dbrnet.errors import UserError
from dbrnet.parallel import ordered_map


class Watched(Sequence[int]):
    """The numbers below 10,000, which tells how many were asked for."""

    taken = 0

    def __len__(self) -> int:
        return 10_000

    def __getitem__(self, index: object) -> int:  # type: ignore[override]
        return cast(int, index)

    def __iter__(self) -> Iterator[int]:
        for number in range(len(self)):
            self.taken += 1
            yield number


def test_results_come_in_order_and_only_a_few_are_worked_out_ahead() -> None:
    items, ahead = Watched(), []
    for seen, result in enumerate(ordered_map(lambda number: number * 2, items)):
        assert result == seen * 2
        ahead.append(items.taken - seen)
    assert len(ahead) == 10_000
    assert max(ahead) <= 40


def test_an_error_comes_in_its_turn_and_ends_the_work() -> None:
    started = []

    def fail_at_five(number: int) -> int:
        started.append(number)
        if number == 5:
            raise UserError("five")
        return number

    results = ordered_map(fail_at_five, Watched())
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(UserError, match="five"):
        next(results)
    assert len(started) <= 50


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 5)))
@settings(max_examples=100, deadline=None)
def test_counts_are_bincounts(mask: NDArray[np.uint8]) -> None:
    assert count_classes(mask, 6, "mask").tolist() == np.bincount(mask.ravel(), minlength=6).tolist()
    if mask.max() > 3:
        with pytest.raises(UserError, match=rf"mask: its mask holds class id {mask.max()}, and ids go to 3"):
            count_classes(mask, 4, "mask")
