"""A decision's facts, and what is asked of every page."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dbrnet.reports.decision_facts import Facts
from tests.evaluation.conftest import dataset, predict
from tests.reports import cases

__all__ = ["dataset", "predict"]  # fixtures of this folder too

VOID = {"meta", "img", "br", "link", "input", "hr"}


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """A candidate promoted in place of version 5."""
    return cases.facts(tmp_path)


class Page(HTMLParser):
    """Collects attributes and text, and checks that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text = ""
        self.feed(html)
        self.text = " ".join(self.text.split())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += f" {' '.join(data.split())}"

    def values(self, name: str, tag: str | None = None) -> list[str]:
        """The attribute's values in order, of all elements or of one kind."""
        return [value or "" for kind, key, value in self.attributes if key == name and tag in (None, kind)]


def require_offline(html: str) -> Page:
    """The page, which holds no script and refers to nothing but itself."""
    page = Page(html)
    assert not re.search(r"url\(|@import|<script|<link", html)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    for value in page.values("src") + page.values("href"):
        assert value.startswith("data:image/") or value[1:] in ids
    return page
