"""`dbrnet doctor`: what it finds, what it says is missing, and that it always ends."""

import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from dbrnet.cli import main
from dbrnet.commands import doctor
from dbrnet.inference.runtimes import RUNTIMES

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A project's folder, with no store in the environment."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    for name in ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def examine(capsys: pytest.CaptureFixture[str]) -> Any:
    """The checks by name, and the exit status."""

    def run() -> tuple[dict[str, dict[str, str]], int]:
        status = main(["doctor", "--json"])
        report = json.loads(capsys.readouterr().out)
        assert report["ok"] is (status == 0)
        return {check["name"]: check for check in report["checks"]}, status

    return run


def test_looks_at_libraries_runtimes_devices_and_stores(examine: Any) -> None:
    checks, status = examine()
    assert status == 0
    assert set(checks) >= {"python", "torch", "cpu", "gpu", "disk", "tracking store", "params.yaml", *RUNTIMES}
    assert checks["onnxruntime-cpu"]["status"] == "ok"
    assert "object store" not in checks, "none is configured"


def test_the_table_has_a_line_for_each_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in {"ok", "missing", "broken"} for line in lines)
    assert any(line.split()[1] == "torch" for line in lines)


def test_an_extra_that_is_missing_comes_with_the_way_to_get_it(examine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.EXTRAS, "serve", ("`dbrnet serve`", ("fastapi", "no-such-library")))
    monkeypatch.setattr(doctor, "NEEDED", ("no-such-needed",))
    checks, status = examine()
    assert checks["serve"]["status"] == "missing"
    assert checks["serve"]["detail"].startswith("no-such-library, for `dbrnet serve`; ")
    assert checks["serve"]["detail"].endswith("pip install -c constraints.txt -e '.[serve]'")
    assert checks["no-such-needed"]["status"] == "broken"
    assert status == 1


@pytest.mark.parametrize(
    ("name", "check"), [("MLFLOW_TRACKING_URI", "tracking store"), ("AWS_ENDPOINT_URL", "object store")]
)
def test_a_store_that_is_named_is_asked_in_bounded_time(
    name: str, check: str, examine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener:  # which never answers
        port = listener.getsockname()[1]
        monkeypatch.setenv(name, f"http://user:secret@127.0.0.1:{port}")
        begin = time.monotonic()
        checks, status = examine()
        assert time.monotonic() - begin < 30
    assert status == 1
    assert checks[check]["status"] == "broken"
    assert "did not answer in 0.5 s" in checks[check]["detail"] or "timed out" in checks[check]["detail"]
    assert "secret" not in json.dumps(checks)
    checks, status = examine()  # nobody listens any more
    assert status == 1
    assert "cannot be reached" in checks[check]["detail"]


def test_params_that_are_wrong_and_a_full_disk_are_broken(
    examine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text("ingest: 7\n")
    monkeypatch.setattr(doctor, "FULL_DISK", 1e9)
    checks, status = examine()
    assert status == 1
    assert checks["params.yaml"]["status"] == checks["disk"]["status"] == "broken"
    (tmp_path / "params.yaml").unlink()
    checks, _ = examine()
    assert checks["params.yaml"]["status"] == "missing"
