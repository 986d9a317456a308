"""Sources behind http(s) addresses, from a real HTTP server, and whether a source has changed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dbrnet.cli import main
from dbrnet.errors import JobError, UserError
from dbrnet.storage.source import download, is_url, revision, url_revision
from tests.http_server import Handler, Server, serving

CONTENT = b"steel" * 100_000


@dataclass
class State:
    """Of the server: its first `failures` requests fail."""

    failures: int = 0
    requests: int = 0


class Files(Handler):
    """Responds by the first word of the path."""

    def answer(self) -> None:
        state: State = self.server.state
        state.requests += 1
        word = self.path.strip("/").partition(".")[0]
        fails = state.requests <= state.failures
        if word == "private" and self.headers.get("Authorization") != "Basic YW5uOnNlc2FtZQ==":
            self.respond(401)
        elif word == "moved":
            self.respond(302, Location=f"http://localhost:{self.server.server_port}/private.zip")
        elif word in {"missing", "sick"} or (word == "slow" and fails):
            self.respond(404 if word == "missing" else 503)
        elif not (word == "hung" and fails):
            is_cut = word == "cut" or (word == "torn" and fails)
            size = 1 << 50 if word == "huge" else len(CONTENT)
            self.respond(200, CONTENT[: 1000 if is_cut else None], Content_Length=str(size))


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Files, State()) as started:
        yield started


def test_downloads_a_file_under_its_own_name(server: Server, tmp_path: Path) -> None:
    file = download(f"{server.address}/steel.zip?version=2", tmp_path)
    assert file == tmp_path / "steel.zip"
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("word", ["slow", "hung", "torn"])
def test_retries_after_a_short_outage(
    server: Server, tmp_path: Path, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dbrnet")
    server.state.failures = 1
    assert download(f"{server.address}/{word}.zip", tmp_path).read_bytes() == CONTENT
    [line] = [record.message for record in caplog.records]
    assert line.startswith(f"{server.address}/{word}.zip: ")
    assert line.endswith("; trying again in 0 s")


@pytest.mark.parametrize(
    ("path", "kind", "expected", "requests"),
    [
        ("/missing.zip", UserError, "the server answers 404", 1),
        ("/huge.zip", UserError, "more than the bound", 1),
        ("/", UserError, "names no file", 0),
        ("/cut.zip", JobError, "the connection broke off; 1000 of 500000 bytes came", 2),
        ("/sick.zip", JobError, "the server answers 503", 2),
    ],
)
def test_each_failure_is_one_line(
    server: Server, tmp_path: Path, path: str, kind: type[Exception], expected: str, requests: int
) -> None:
    with pytest.raises(kind, match=expected):
        download(server.address + path, tmp_path)
    assert server.state.requests == requests


def test_a_password_comes_from_netrc_for_its_host_alone(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    with pytest.raises(UserError, match="answers 401"):
        download(f"{server.address}/private.zip", tmp_path)
    netrc.write_text("machine 127.0.0.1 login ann password sesame\n")
    assert download(f"{server.address}/private.zip", tmp_path).read_bytes() == CONTENT
    with pytest.raises(UserError, match="answers 401"):  # it leads to another host
        download(f"{server.address}/moved.zip", tmp_path)
    netrc.write_text("machine 127.0.0.1 login ann\n  sesame\n")
    with pytest.raises(UserError, match=r"netrc, line \d: not as") as caught:
        download(f"{server.address}/private.zip", tmp_path)
    assert "sesame" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "kind", "expected"),
    [
        ("http://127.0.0.1:9/steel.zip", JobError, r"127\.0\.0\.1:9/steel\.zip: cannot be reached"),
        ("http://no-such-host.invalid/steel.zip", JobError, "cannot be reached"),
        ("http://[::1/steel.zip", UserError, "is no http.s. address"),
        ("http://127.0.0.1:0/steel.zip", UserError, "is no http.s. address"),
        ("http://127.0.0.1/steel strip.zip", UserError, "is no http.s. address"),
    ],
)
def test_an_address_without_a_server(tmp_path: Path, address: str, kind: type[Exception], expected: str) -> None:
    for request in (lambda: download(address, tmp_path), lambda: url_revision(address)):
        with pytest.raises(kind, match=expected):
            request()


def test_addresses_and_paths_are_distinguished() -> None:
    assert is_url("https://host/a.zip")
    assert is_url("HTTP://host/a.zip")
    assert not is_url("data/a.zip")
    assert not is_url("file:///etc/passwd")


class Versions(Handler):
    """The server's state is the ETag, or None."""

    def answer(self) -> None:
        etag = {"ETag": self.server.state} if self.server.state else {}
        self.respond(404 if self.path == "/missing.zip" else 200, **etag)


def test_revision_of_a_folder_and_a_file(tmp_path: Path) -> None:
    (tmp_path / "line3/images").mkdir(parents=True)
    (tmp_path / "line3/images/a.jpg").write_bytes(b"one")
    seen = [revision(str(tmp_path / "line3"))]
    assert revision(str(tmp_path / "line3")) == seen[0]
    (tmp_path / "line3/images/b.jpg").write_bytes(b"")
    seen.append(revision(str(tmp_path / "line3")))
    (tmp_path / "line3/images/b.jpg").write_bytes(b"more")
    seen.append(revision(str(tmp_path / "line3")))
    (tmp_path / "line3/images/b.jpg").rename(tmp_path / "line3/images/c.jpg")
    seen.append(revision(str(tmp_path / "line3")))
    seen.append(revision(str(tmp_path / "line3/images/a.jpg")))
    assert len(set(seen)) == 5
    with pytest.raises(UserError, match="does not exist"):
        revision(str(tmp_path / "line4"))


def test_revision_of_an_address(away_address: str) -> None:
    with serving(Versions, '"1"') as server:
        address = f"{server.address}/steel.zip"
        first = revision(address)
        assert revision(address) == first
        server.state = '"2"'
        assert revision(address) != first
        server.state = None  # nothing is known: it may have changed
        assert revision(address) != revision(address)
        with pytest.raises(UserError, match="answers 404"):
            revision(f"{server.address}/missing.zip")
    with pytest.raises(JobError, match="cannot be reached"):
        revision(f"http://{away_address}/steel.zip")


def test_the_command_prints_the_revision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    text = (Path(__file__).parents[2] / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("source: data/steel-strip", f"source: {tmp_path / 'images'}"))
    assert main(["revision", "--params", str(path)]) == 0
    assert capsys.readouterr().out.strip() == revision(str(tmp_path / "images"))
