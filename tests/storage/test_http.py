"""Sources behind http(s) addresses, from a real HTTP server on this machine."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dbrnet.errors import JobError, UserError
from dbrnet.storage.http import download, is_url, url_revision

CONTENT = b"steel" * 100_000


class Server(ThreadingHTTPServer):
    """Answers a request by its path's first word; the first `failures` requests fail."""

    failures = 0
    requests = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        if self.path.startswith("/private") and self.headers.get("Authorization") != "Basic YW5uOnNlc2FtZQ==":
            self.send_error(401)
            return
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/private.zip")
            self.end_headers()
            return
        word = self.path.strip("/").partition(".")[0]
        fails = self.server.requests <= self.server.failures
        status = {"missing": 404, "sick": 503}.get(word, 200)
        if fails and word == "slow":
            status = 503
        if fails and word == "hung":
            return
        self.send_response(status)
        self.send_header("Content-Length", str(1 << 50 if word == "huge" else len(CONTENT)))
        self.end_headers()
        is_cut = word == "cut" or (word == "torn" and fails)
        self.wfile.write(CONTENT[: 1000 if is_cut else None])

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
        yield http
        http.shutdown()


def test_the_file_comes_whole_under_its_own_name(server: Server, tmp_path: Path) -> None:
    file = download(f"{server.address}/steel.zip?version=2", tmp_path)
    assert file == tmp_path / "steel.zip"
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize("word", ["slow", "hung", "torn"])
def test_a_short_outage_is_waited_for(
    server: Server, tmp_path: Path, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dbrnet")
    server.failures = 1
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
    assert server.requests == requests


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
