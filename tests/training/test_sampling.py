from collections import Counter

import pytest

from dbrnet.data.dataset import Sample
from dbrnet.training.sampling import Draw, Sampler


def sample(name: str, group: str, *classes: int) -> Sample:
    return Sample(name, name, name, 10, 10, classes, group, name, name)


# Class 1 is common, and one group holds nearly all of it; class 2 is rare.
SAMPLES = [
    *(sample(f"free{index}", f"free{index}") for index in range(20)),
    *(sample(f"many{index}", "many", 1) for index in range(9)),
    sample("single", "single", 1),
    sample("rare", "rare", 2),
]
MANY, SINGLE, RARE = range(20, 29), 29, 30


def draws(count: int, *, seed: int = 0, focus: float = 0.5, paste: float = 0.0) -> list[Draw]:
    sampler = Sampler(SAMPLES, seed=seed, focus=focus, paste=paste)
    return [sampler.draw(place) for place in range(count)]


def test_classes_and_then_groups_take_turns() -> None:
    focused = [draw for draw in draws(640) if draw.label is not None]
    assert Counter(draw.label for draw in focused) == {1: 160, 2: 160}
    assert Counter(draw.image == SINGLE for draw in focused if draw.label == 1) == {True: 80, False: 80}
    assert {draw.image for draw in focused if draw.label == 1} == {*MANY, SINGLE}
    assert {draw.image for draw in focused if draw.label == 2} == {RARE}
    assert all(draw.donor is None for draw in focused)


def test_the_others_show_every_image_equally_often() -> None:
    counts = Counter(draw.image for draw in draws(2 * 3 * len(SAMPLES)) if draw.label is None)
    assert counts == dict.fromkeys(range(len(SAMPLES)), 3)


@pytest.mark.parametrize("focus", [0.0, 0.3, 0.6, 1.0])
def test_the_share_over_a_defect(focus: float) -> None:
    assert sum(draw.label is not None for draw in draws(1000, focus=focus)) == pytest.approx(1000 * focus, abs=1)


def test_pasted_defects_come_onto_defect_free_images() -> None:
    focused = draws(2000, focus=1.0, paste=0.3)
    pasted = [draw for draw in focused if draw.donor is not None]
    assert len(pasted) == pytest.approx(600, abs=80)
    assert {draw.image for draw in pasted} == set(range(20))
    assert {draw.donor for draw in pasted} == {*MANY, SINGLE, RARE}
    assert Counter(draw.label for draw in focused) == {1: 1000, 2: 1000}


def test_a_draw_depends_on_seed_and_place_alone() -> None:
    sampler = Sampler(SAMPLES, seed=0, focus=0.5, paste=0.5)
    assert sampler.draw(77) == draws(78, paste=0.5)[77]
    assert draws(40, seed=1) != draws(40)


def test_a_set_without_defects_shows_any_image() -> None:
    sampler = Sampler(SAMPLES[:20], seed=0, focus=0.9, paste=0.5)
    assert sorted(sampler.draw(place).image for place in range(20)) == list(range(20))
