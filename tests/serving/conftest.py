from collections.abc import Iterator
from pathlib import Path

import pytest

from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta
from tests.serving.service import Service, running, serve

Exported = tuple[Path, DBRNet, ModelMeta]


@pytest.fixture(scope="session")
def service(exported: Exported) -> Iterator[Service]:
    """`dbrnet serve` as a user starts it, with small limits."""
    with running(*serve(exported[0], "--max-mb", "1")) as started:
        yield started
        assert started.stop() == 0
