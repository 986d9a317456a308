import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dbrnet
from dbrnet.provenance import code_revision, hardware, versions


def test_the_revision_is_the_repositorys_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBRNET_REVISION", raising=False)
    root = Path(dbrnet.__file__).parent.parent
    if not (root / ".git").exists():
        assert code_revision() is None
        return
    commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert re.fullmatch(rf"{commit.stdout.strip()}(-dirty)?", code_revision() or "")


def test_an_image_can_be_told_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBRNET_REVISION", "0123abc")
    assert code_revision() == "0123abc"


def test_versions_and_machine() -> None:
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "onnxruntime", "numpy"} <= set(versions())
    machine = hardware()
    assert 1 <= machine["cores"] <= (os.cpu_count() or 1)
    assert machine["cpu"]


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, dbrnet.provenance as p; p.versions(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
