"""A stub of the Kubernetes API, and this process made a pod of its cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dbrnet.retries import KUBERNETES
from tests.cluster.kubernetes_stub import Stub

IMAGE = "registry.example/dbrnet@sha256:" + 64 * "a"


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """An API that does not run yet."""
    (tmp_path / "account").mkdir()
    stub = Stub(tmp_path / "account")
    with stub.running():  # which finds a port
        pass
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(stub.port))
    monkeypatch.setattr("dbrnet.cluster.api.SERVICE_ACCOUNT", stub.folder)
    monkeypatch.setattr(KUBERNETES, "first", 0.01)
    monkeypatch.setattr(KUBERNETES, "longest", 0.01)
    monkeypatch.setattr("dbrnet.cluster.api.POLL_SECONDS", 0.01)
    return stub


@pytest.fixture
def stub(away: Stub) -> Iterator[Stub]:
    """An API that runs."""
    with away.running():
        yield away
