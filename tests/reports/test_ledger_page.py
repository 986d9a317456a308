"""The ledger's page."""

import re
from dataclasses import replace

import pytest

from dbrnet.registry.ledger_state import KeyFigures
from dbrnet.reports.ledger_page import render_history
from tests.reports import cases
from tests.reports.conftest import Page, require_offline


@pytest.fixture(scope="module")
def html() -> str:
    return render_history("dbrnet-neu-seg", cases.year())


@pytest.fixture(scope="module")
def text(html: str) -> str:
    return require_offline(html).text


def test_the_champion_and_its_start_are_shown(text: str) -> None:
    assert "Champion: version 12 Since 2026-10-05, mIoU 75.7 %: every criterion passed Decided by pipeline." in text
    assert "15 entries, from 2025-12-08 to 2026-10-05" in text


def test_entries_show_outcome_reason_and_author_newest_first(text: str) -> None:
    sentences = [
        "Version 12 became champion, in place of version 8. every criterion passed Entry 15, by pipeline",
        "Version 11 was revoked; version 8 stays champion. the labels of September's",
        "Version 11 waits for a person's review; version 8 stays champion.",
        "The decision on version 9 has no effect; version 8 stays champion. version 8 had become",
        "Version 7 was approved and became champion, in place of version 3.",
        "Rolled back: version 3 is champion again, in place of version 5. version 5 misses scratches",
        "Version 4 was rejected; version 3 stays champion. frames per second 21.4 is below 30.0",
        "Version 1 became champion, the first one.",
    ]
    entries = text[text.index("the newest first") :]
    places = [entries.index(sentence) for sentence in sentences]
    assert places == sorted(places)


def test_the_table_shows_each_champions_period(text: str) -> None:
    reigns = text[text.index("Who was champion when") :]
    assert "12 2026-10-05 now – 75.7 % entry 15, promoted pipeline" in reigns
    assert "3 2026-04-09 2026-06-02 53 72.8 % entry 6, rolled back ann" in reigns
    assert "5 2026-03-30 2026-04-09 10 73.9 % entry 5, promoted pipeline" in reigns


def test_marks_rise_with_miou_and_do_not_overlap(html: str) -> None:
    marks = [tuple(map(float, found)) for found in re.findall(r"translate\(([\d.]+) ([\d.]+)\)", html)]
    assert len(marks) == 15
    assert marks[0][1] > marks[2][1] > marks[14][1]  # 71.2, 72.8 and 75.7 %
    assert marks[11][1] > max(y for place, (_, y) in enumerate(marks) if place != 11)  # not measured
    for place, (x, y) in enumerate(marks):
        assert all(abs(x - a) >= 20 or abs(y - b) >= 20 for a, b in marks[:place])
    assert re.findall(r'<a href="#entry-(\d+)" aria-label', html) == [str(number) for number in range(1, 16)]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_ledger_of_up_to_two_entries_has_a_page(count: int) -> None:
    text = Page(render_history("x", cases.year()[:count])).text
    assert ("Champion: version 1" in text) == (count > 0)


def test_confirmed_and_revoked_champions_are_shown() -> None:
    first = cases.year()[0]
    second = replace(first, entry=replace(first.entry, number=2, figures=KeyFigures()), champion_before=1)
    third = replace(second, entry=replace(first.entry, number=3), outcome="revoked", champion_after=None)
    text = Page(render_history("x", [first, second, third])).text
    assert "Version 1 was champion already and stays: promoted." in text
    assert "Version 1 was revoked; version 1 is champion no more, and there is no other." in text
    assert "No champion" in text


def test_text_from_users_is_escaped() -> None:
    first = cases.year()[0]
    event = replace(first, entry=replace(first.entry, reasons=(cases.HOSTILE,), by=cases.HOSTILE))
    require_offline(render_history(cases.HOSTILE, [event]))
