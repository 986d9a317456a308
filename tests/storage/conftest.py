"""A source in a real layout, to fetch, and no minutes of waiting."""

import pytest

from tests.data.conftest import severstal_source
from tests.retrying import retry_at_once

__all__ = ["severstal_source"]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    retry_at_once(monkeypatch, "HTTP", attempts=2)
