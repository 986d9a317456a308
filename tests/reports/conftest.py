"""A decision's facts and its pages."""

from pathlib import Path

import pytest

from dbrnet.reports.decision_facts import Facts
from tests.evaluation.conftest import dataset, predict
from tests.reports import cases

__all__ = ["dataset", "predict"]  # fixtures of this folder too


@pytest.fixture
def facts(tmp_path: Path) -> Facts:
    """A candidate promoted in place of version 5."""
    return cases.facts(tmp_path)
