"""What all tests share: where the real archives are, and no silent skips on CI."""

import os
from pathlib import Path

import pytest

import dbrnet  # noqa: F401  (first of all: it sets what the libraries read when they are loaded)

_skipped: list[str] = []


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """On CI a skipped test is a failure: what should run there must be installed there."""
    if _skipped and os.environ.get("DBRNET_NO_SKIPS"):
        print("\nskipped, and nothing may be skipped here:", *_skipped, sep="\n  ")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.fixture(scope="session")
def archives() -> Path:
    """The folder with the real datasets' archives."""
    folder = Path(os.environ.get("DBRNET_DATASETS", ""))
    if not os.environ.get("DBRNET_DATASETS") or not folder.is_dir():
        pytest.skip("needs the real archives: set DBRNET_DATASETS to the folder that holds them")
    return folder
