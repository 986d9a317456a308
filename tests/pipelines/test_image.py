"""An image that its registry does not have is refused before anything is sent."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from pipelines.compiling import compile_pipeline
from tests.pipelines.command import PARAMS, Command
from tests.pipelines.kfp_server import KfpServer
from tests.pipelines.registry_server import BINARY, LOGIN, image_registry, push

pytestmark = pytest.mark.skipif(not BINARY, reason="needs a registry: apt-get install docker-registry")

CRON = ("--cron", "0 30 2 * * *")
WORDS = {"submit": ("submit",), "schedule": ("schedule", "nightly")}


@pytest.fixture(autouse=True)
def _registries() -> None:
    """Real ones."""


@pytest.fixture(autouse=True)
def _logged_in_nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".docker").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.parametrize("verb", WORDS)
def test_a_wrong_digest_is_one_line(verb: str, cluster: KfpServer, command: Command, tmp_path: Path) -> None:
    words = (*WORDS[verb], "training", *(CRON if verb == "schedule" else ()), "--params", str(PARAMS))
    with image_registry(tmp_path) as address:
        image = push(address)
        wrong = image[:-64] + 64 * "a"
        outcome = command(*words, "--image", wrong)
        assert outcome.status == 2
        assert outcome.error == (f"error: its registry has no image {wrong}: is the digest right, and was it pushed?\n")
        assert not cluster.requests
        assert command(*words, "--image", image.replace("dbrnet", "other")).status == 2
        outcome = command(*words, "--image", image)
        assert outcome.status == 0, outcome.error
        assert not outcome.error
    assert len(cluster.runs) + len(cluster.schedules) == 1


def test_a_compiled_files_image_is_asked_for_too(cluster: KfpServer, command: Command, tmp_path: Path) -> None:
    with image_registry(tmp_path) as address:
        wrong = f"{address}/line/dbrnet@sha256:{64 * 'a'}"
        compile_pipeline("training", gpu=False, image=wrong, path=tmp_path / "ours.yaml")
        outcome = command("submit", str(tmp_path / "ours.yaml"), "--params", str(PARAMS))
    assert outcome.status == 2
    assert f"its registry has no image {wrong}" in outcome.error
    assert not cluster.requests


def test_a_registry_that_wants_a_password(cluster: KfpServer, command: Command, tmp_path: Path) -> None:
    with image_registry(tmp_path) as address:
        image = push(address)
    with image_registry(tmp_path, password=True) as address:
        name, _, digest = image.partition("@")
        name = f"{address}/{name.partition('/')[2]}"
        words = ("submit", "training", "--params", str(PARAMS), "--image")
        outcome = command(*words, f"{name}@{digest}")
        assert outcome.status == 0
        assert outcome.error == f"note: the registry of {name}@{digest} does not say here whether it has it\n"
        (tmp_path / ".docker/config.json").write_text(json.dumps({"auths": {address: LOGIN}}))
        outcome = command(*words, f"{name}@{digest}")
        assert (outcome.status, outcome.error) == (0, "")
        outcome = command(*words, f"{name}@sha256:{64 * 'a'}")
        assert outcome.status == 2
        assert "its registry has no image" in outcome.error
    outcome = command(*words, f"{name}@{digest}")  # nobody listens there any more
    assert outcome.status == 0
    assert outcome.error.startswith("note: ")


class TokenRegistry(BaseHTTPRequestHandler):
    """One that gives tokens, as most in the cloud do: to nobody, or to all, and hides what it has."""

    gives: ClassVar[bool]

    def do_HEAD(self) -> None:
        if self.headers.get("Authorization") == "Bearer t0ken":
            self.send_response(404 if "a" * 64 in self.path else 200)
        else:
            realm = f"http://{self.headers['Host']}/token"
            self.send_response(401)
            self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="x",scope="y"')
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200 if self.gives or self.headers.get("Authorization") else 401)
        self.end_headers()
        self.wfile.write(b'{"token": "t0ken"}')

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("gives", "logged_in", "digest", "line"),
    [
        (True, False, "b", ""),
        (True, False, "a", "note: the registry of"),  # perhaps it is there, for others
        (False, False, "b", "note: the registry of"),
        (False, True, "b", ""),
        (False, True, "a", "error: its registry has no image"),
    ],
)
def test_a_registry_that_gives_tokens(
    gives: bool, logged_in: bool, digest: str, line: str, command: Command, tmp_path: Path
) -> None:
    handler = type("Handler", (TokenRegistry,), {"gives": gives})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        if logged_in:
            (tmp_path / ".docker/config.json").write_text(json.dumps({"auths": {address: LOGIN}}))
        image = f"{address}/line/dbrnet@sha256:{64 * digest}"
        outcome = command("submit", "training", "--params", str(PARAMS), "--image", image)
        server.shutdown()
    assert outcome.error.startswith(line)
    assert len(outcome.error.splitlines()) == bool(line)
    assert outcome.status == (2 if line.startswith("error") else 0)
