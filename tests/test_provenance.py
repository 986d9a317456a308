import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

import dbrnet
from dbrnet.provenance import code_revision, data_revision, hardware, versions


def test_the_code_revision_is_the_repositorys_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DBRNET_REVISION", raising=False)
    root = Path(dbrnet.__file__).parent.parent
    if not (root / ".git").exists():
        assert code_revision() is None
        return
    commit = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True)
    assert re.fullmatch(rf"{commit.stdout.strip()}(-dirty)?", code_revision() or "")


def test_a_container_images_revision_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBRNET_REVISION", "0123abc")
    assert code_revision() == "0123abc"


PUBLIC = "https://github.com/DHW-Master/NEU_Seg"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A DVC project that has made data/dataset out of the import data/raw."""
    for name, text in {"a.txt": "a", "b/c.txt": "c", "b-d.txt": "d", "ü.txt": "u"}.items():
        (tmp_path / "data/raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data/raw" / name).write_text(text)
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n"
        "  ingest:\n    cmd: cp -r data/raw data/dataset\n    deps: [data/raw]\n    outs: [data/dataset]\n"
        "  train:\n    cmd: cp dvc.lock during.lock && cp data/dataset/a.txt model\n"
        "    deps: [data/dataset]\n    outs: [model]\n"
    )
    for words in (["init", "-q", "--no-scm"], ["add", "-q", "data/raw"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, check=True)
    return tmp_path


def known(project: Path) -> dict[str, str]:
    return data_revision(project / "data/dataset", project).known


def test_the_data_revision_is_dvcs_hash(project: Path) -> None:
    lock = YAML(typ="safe").load((project / "dvc.lock").read_text())["stages"]["ingest"]
    ours = {"dataset": lock["outs"][0]["md5"], "source": "data/raw", "source_hash": lock["deps"][0]["md5"]}
    assert known(project) == ours
    # While a stage runs, dvc.lock has the entries of the stages before it.
    (project / "during.lock").replace(project / "dvc.lock")
    assert known(project) == ours
    # An import is known by its public commit, as long as its hash is the one that was read.
    importing = project / "data/raw.dvc"
    url = PUBLIC.replace("//", "//ann:secret@")  # redacted
    repo = f"deps:\n- path: .\n  repo:\n    url: {url}\n    rev_lock: 0123abc\n"
    importing.write_text(repo + importing.read_text())
    assert known(project) == ours | {"source_revision": f"{PUBLIC}@0123abc"}
    importing.write_text(importing.read_text().replace(ours["source_hash"], "0" * 32 + ".dir"))
    assert known(project) == ours
    # Nor does a signature reach what is recorded.
    lock_file = project / "dvc.lock"
    signed = "path: https://ann:SECRET@data.example/raw.zip?X-Amz-Signature=SECRET\n"
    lock_file.write_text(lock_file.read_text().replace("path: data/raw\n", signed))
    assert known(project) == ours | {"source": "https://data.example/raw.zip"}
    # A dataset that was changed outside of DVC since then has none.
    (project / "data/dataset/a.txt").unlink()
    (project / "data/dataset/a.txt").write_text("other")
    assert known(project) == {}
    (project / "dvc.lock").unlink()
    assert known(project) == {}


def test_versions_and_hardware_are_those_of_this_machine() -> None:
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"torch", "onnxruntime", "numpy"} <= set(versions())
    machine = hardware()
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.cpu


def test_provenance_imports_no_heavy_library() -> None:
    code = "import sys, dbrnet.provenance as p; p.versions(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
