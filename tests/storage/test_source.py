"""Whether a source has changed: folders, files and addresses."""

from pathlib import Path

import pytest

from dbrnet.cli import main
from dbrnet.errors import JobError, UserError
from dbrnet.storage.source import revision
from tests.http_server import Handler, serving


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
