"""Retry policies without their pauses."""

import pytest

from dbrnet import retries


def retry_at_once(monkeypatch: pytest.MonkeyPatch, policy: str, attempts: int = 3) -> None:
    """Until the test ends, `policy` of dbrnet.retries makes `attempts` tries with no pause between them."""
    for name, value in {"first": 0.0, "longest": 0.0, "attempts": attempts}.items():
        monkeypatch.setattr(getattr(retries, policy), name, value)
