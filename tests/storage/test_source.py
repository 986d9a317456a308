"""Whether a source has changed: folders, files and addresses."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dbrnet.cli import main
from dbrnet.errors import JobError, UserError
from dbrnet.storage.source import revision


class Server(ThreadingHTTPServer):
    etag: str | None = '"1"'


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.send_response(404 if self.path == "/missing.zip" else 200)
        if self.server.etag:
            self.send_header("ETag", self.server.etag)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield http
        http.shutdown()


def test_a_folder_and_a_file(tmp_path: Path) -> None:
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


def test_an_address_by_what_its_server_says(server: Server, away_address: str) -> None:
    address = f"http://127.0.0.1:{server.server_port}/steel.zip"
    first = revision(address)
    assert revision(address) == first
    server.etag = '"2"'
    assert revision(address) != first
    server.etag = None  # nothing is known: it may have changed
    assert revision(address) != revision(address)
    with pytest.raises(UserError, match="answers 404"):
        revision(f"http://127.0.0.1:{server.server_port}/missing.zip")
    with pytest.raises(JobError, match="cannot be reached"):
        revision(f"http://{away_address}/steel.zip")


def test_the_command_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    text = (Path(__file__).parents[2] / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("source: data/steel-strip", f"source: {tmp_path / 'images'}"))
    assert main(["revision", "--params", str(path)]) == 0
    assert capsys.readouterr().out.strip() == revision(str(tmp_path / "images"))
