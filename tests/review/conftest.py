"""A decision's facts and its pages."""

from pathlib import Path

import pytest

from dbrnet.review.facts import Facts
from tests.review import examples


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """A candidate promoted in place of version 5."""
    return examples.facts(tmp_path)
