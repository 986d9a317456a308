"""A source behind a URL, from a real HTTP server on this machine."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dbrnet.errors import JobError, UserError
from dbrnet.storage.http import download, is_url

CONTENT = b"steel" * 100_000


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/missing"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 50 if self.path.startswith("/huge") else len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: 1000 if self.path.startswith("/cut") else None])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_the_file_comes_whole_under_its_own_name(server: str, tmp_path: Path) -> None:
    file = download(f"{server}/sets/steel.zip?version=2", tmp_path)
    assert file == tmp_path / "steel.zip"
    assert file.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "kind", "expected"),
    [
        ("/missing.zip", UserError, "the server answers 404"),
        ("/huge.zip", UserError, "more than the bound"),
        ("/cut.zip", JobError, "the connection broke off; 1000 of 500000 bytes came"),
        ("/", UserError, "names no file"),
    ],
)
def test_what_goes_wrong_is_said(server: str, tmp_path: Path, path: str, kind: type[Exception], expected: str) -> None:
    with pytest.raises(kind, match=expected):
        download(server + path, tmp_path)


def test_a_server_that_is_away(tmp_path: Path) -> None:
    with pytest.raises(JobError, match="cannot be reached"):
        download("http://127.0.0.1:9/steel.zip", tmp_path)


def test_urls_are_told_from_paths() -> None:
    assert is_url("https://host/a.zip")
    assert not is_url("data/a.zip")
    assert not is_url("file:///etc/passwd")
