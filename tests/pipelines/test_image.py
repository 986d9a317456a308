"""An image that its registry does not have is refused before anything is sent."""

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from oras.client import OrasClient

from pipelines.graphs import compile_pipeline
from tests.http_server import Handler, serving
from tests.pipelines.conftest import Command
from tests.pipelines.kfp_server import KfpServer
from tests.registry.servers import free_port

BINARY = shutil.which("docker-registry")  # a real registry, as Debian packages it
HASHED = "reader:$2y$05$Yg61BTLu68B1Z3FARBliMu62RZMnyLj8TaK3zm4saB/QezVhsYgWC"  # its password is: word
LOGIN = {"auth": "cmVhZGVyOndvcmQ="}  # as `docker login` keeps it
ABSENT = f"sha256:{64 * 'a'}"

pytestmark = pytest.mark.skipif(not BINARY, reason="needs a registry: apt-get install docker-registry")


@pytest.fixture(autouse=True)
def _registries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Real ones, in which nobody is logged in."""
    (tmp_path / ".docker").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))


def log_in(address: str, home: Path) -> None:
    (home / ".docker/config.json").write_text(json.dumps({"auths": {address: LOGIN}}))


@contextmanager
def image_registry(folder: Path, *, password: bool = False) -> Iterator[str]:
    """Its address, HOST:PORT; with `password` it lets in those alone who have logged in as `reader`."""
    port = free_port()
    (folder / "users").write_text(f"{HASHED}\n")
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "files")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "auth": {"htpasswd": {"realm": "line", "path": str(folder / "users")}} if password else {},
    }
    (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(BINARY), "serve", folder / "config.yml"], stdout=log, stderr=log)
        try:
            while not listens(port):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait(30)


def listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # it wants a password
    except OSError:
        return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """An open registry's."""
    with image_registry(folder) as address:
        yield address


@pytest.fixture(scope="module")
def image(address: str) -> str:
    """An image in the open registry, by digest."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "layer").write_text("a layer")
        client = OrasClient(insecure=True)
        answer = client.push(target=f"{address}/line/dbrnet:1", files=[f"{folder}/layer"], disable_path_validation=True)
    return f"{address}/line/dbrnet@{answer.headers['Docker-Content-Digest']}"


@pytest.mark.parametrize(
    "words", [("submit", "training"), ("schedule", "nightly", "training", "--cron", "0 30 2 * * *")], ids=" ".join
)
def test_a_wrong_digest_is_one_line(words: tuple[str, ...], image: str, cluster: KfpServer, command: Command) -> None:
    wrong = f"{image.partition('@')[0]}@{ABSENT}"
    outcome = command(*words, "--image", wrong)
    assert outcome.status == 2
    assert outcome.error == f"error: its registry has no image {wrong}: is the digest right, and was it pushed?\n"
    assert command(*words, "--image", image.replace("dbrnet", "other")).status == 2
    assert not cluster.requests
    outcome = command(*words, "--image", image)
    assert (outcome.status, outcome.error) == (0, "")
    assert len(cluster.runs) + len(cluster.schedules) == 1


def test_a_compiled_files_image_is_checked_too(
    address: str, cluster: KfpServer, command: Command, tmp_path: Path
) -> None:
    wrong = f"{address}/line/dbrnet@{ABSENT}"
    compile_pipeline("training", gpu=False, image=wrong, path=tmp_path / "ours.yaml")
    command("submit", str(tmp_path / "ours.yaml")).is_one_line(2, f"its registry has no image {wrong}")
    assert not cluster.requests


def test_a_registry_with_a_password(image: str, folder: Path, command: Command, tmp_path: Path) -> None:
    with image_registry(folder, password=True) as address:
        name = f"{address}/{image.partition('/')[2]}"
        outcome = command("submit", "training", "--image", name)
        assert outcome.status == 0
        assert outcome.error == f"note: the registry of {name} does not say here whether it has it\n"
        log_in(address, tmp_path)
        outcome = command("submit", "training", "--image", name)
        assert (outcome.status, outcome.error) == (0, "")
        outcome = command("submit", "training", "--image", f"{name.partition('@')[0]}@{ABSENT}")
        outcome.is_one_line(2, "its registry has no image")
    outcome = command("submit", "training", "--image", name)  # nobody listens there any more
    assert outcome.status == 0
    assert outcome.error.startswith("note: ")


class TokenRegistry(Handler):
    """One that gives tokens, as most in the cloud do, and hides what it has. Its state: whether to everybody."""

    def answer(self) -> None:
        if self.command == "GET":
            may = self.server.state or self.headers.get("Authorization")
            self.respond(200 if may else 401, b'{"token": "t0ken"}')
        elif self.headers.get("Authorization") == "Bearer t0ken":
            self.respond(404 if ABSENT in self.path else 200)
        else:
            realm = f"{self.server.address}/token"
            self.respond(401, WWW_Authenticate=f'Bearer realm="{realm}",service="x",scope="y"')


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
def test_a_registry_with_tokens(
    gives: bool, logged_in: bool, digest: str, line: str, command: Command, tmp_path: Path
) -> None:
    with serving(TokenRegistry, gives) as server:
        address = server.address.removeprefix("http://")
        if logged_in:
            log_in(address, tmp_path)
        outcome = command("submit", "training", "--image", f"{address}/line/dbrnet@sha256:{64 * digest}")
    assert outcome.error.startswith(line)
    assert len(outcome.error.splitlines()) == bool(line)
    assert outcome.status == (2 if line.startswith("error") else 0)
