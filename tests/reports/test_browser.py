"""The review's pages in a real browser, offline."""

import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from dbrnet.reports.decision_facts import Facts
from dbrnet.reports.decision_page import render_review
from dbrnet.reports.ledger_page import render_history
from tests.reports import cases
from tests.reports.cases import CASES

PHONE, DESKTOP = (390, 844), (1280, 900)
Open = Callable[[str, tuple[int, int]], Page]

IN_VIEW = """(element) => { const box = element.getBoundingClientRect();
  return box.top < innerHeight / 2 && box.bottom > 0; }"""
UNREACHABLE = """() => [...document.querySelectorAll('.scroll')].filter((region) =>
  region.scrollWidth > region.clientWidth && region.tabIndex !== 0).length"""
HEADINGS = "() => [...document.querySelectorAll('h1, h2, h3, h4, h5, h6')].map((one) => Number(one.tagName[1]))"
FOCUSABLE = "() => document.querySelectorAll('a[href], summary, [tabindex=\"0\"]').length"
FOCUSED = """() => { const one = document.activeElement, style = getComputedStyle(one);
  const visible = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2;
  return [one.tagName + (one.textContent || '').trim().slice(0, 40), visible,
          [...document.querySelectorAll('*')].indexOf(one)]; }"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=chromium, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        yield started
        started.close()


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a page's file; a request to anywhere else, or a word on the console, fails the test."""
    complaints: list[str] = []
    context = browser.new_context(offline=True)

    def open_file(html: str, size: tuple[int, int]) -> Page:
        file = tmp_path / "page.html"
        file.write_text(html)
        page = context.new_page()
        page.set_viewport_size({"width": size[0], "height": size[1]})
        own = (file.as_uri(), "data:")
        page.on("request", lambda asked: None if asked.url.startswith(own) else complaints.append(asked.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(file.as_uri())
        return page

    yield open_file
    context.close()
    assert not complaints


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_worst_regression_is_a_click_away(facts: Facts, opened: Open, size: tuple[int, int]) -> None:
    page = opened(render_review(facts), size)
    link = page.get_by_role("link", name="Worst regression")
    assert link.evaluate("(one) => one.getBoundingClientRect().bottom <= innerHeight")  # on the first screen
    link.click()
    worst = page.locator("article", has_text="test-000437")
    assert worst.evaluate(IN_VIEW)
    images = worst.locator("img").all()
    assert len(images) == 4
    assert all(image.evaluate("(one) => one.complete && one.naturalWidth > 0") for image in images)


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_first_screen_shows_decision_and_reasons(facts: Facts, opened: Open, size: tuple[int, int]) -> None:
    page = opened(render_review(cases.rejected(facts)), size)
    for said in ("Rejected", "3 of 14 criteria are not met", "Champion now: version 5", "LEAKS: 96.4 %"):
        place = page.get_by_text(said).first.bounding_box()
        assert place is not None
        assert place["y"] + place["height"] < size[1]


@pytest.mark.parametrize("case", [cases.facts, *CASES], ids=lambda case: case.__name__)
def test_on_a_phone_nothing_is_cut_off_and_headings_are_in_order(
    tmp_path: Path, opened: Open, case: Callable[[Facts], Facts]
) -> None:
    base = cases.facts(tmp_path)
    page = opened(render_review(base if case is cases.facts else case(base)), PHONE)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE[0]
    assert page.evaluate(UNREACHABLE) == 0
    levels = page.evaluate(HEADINGS)
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_control_is_reached_by_keyboard_with_visible_focus(facts: Facts, opened: Open) -> None:
    page = opened(render_review(facts), PHONE)
    places = tab_through(page)
    assert len(places) == page.evaluate(FOCUSABLE)
    assert places[0] == "AWorst regression"
    page.locator("summary", has_text="Improvements").focus()
    page.keyboard.press("Enter")
    assert page.locator("article", has_text="training-001467").is_visible()
    page.locator("nav a").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "regression-1"


def tab_through(page: Page) -> list[str]:
    """What the focus rests on from the first Tab to the last, each visibly."""
    found: list[str] = []
    seen: set[int] = set()
    while True:
        page.keyboard.press("Tab")
        name, visible, place = page.evaluate(FOCUSED)
        if place in seen or name.startswith("BODY"):
            return found
        assert visible, name
        seen.add(place)
        found.append(name)


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_a_timeline_mark_links_to_its_entry(opened: Open, size: tuple[int, int]) -> None:
    page = opened(render_history("dbrnet-neu-seg", cases.year()), size)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0]
    assert len(tab_through(page)) == page.evaluate(FOCUSABLE) == 15 + 2 + 7
    page.get_by_role("link", name="2026-04-09: Rolled back").click()
    entry = page.locator("#entry-6")
    assert entry.evaluate(IN_VIEW)
    assert "version 5 misses scratches" in entry.inner_text()
    assert "by ann" in entry.inner_text()
