"""Sources in S3, from a real server, and from one that lies."""

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from dbrnet.config import IngestParams
from dbrnet.errors import JobError, UserError
from dbrnet.steps.ingest import ingest
from dbrnet.storage.s3 import fetch_s3
from dbrnet.storage.source import revision
from tests.retrying import retry_at_once
from tests.sections import PARAMS
from tests.storage.s3_server import BUCKET, S3Server, breaking_way

FILES = {
    "images/a 1.jpg": b"first",
    "images/ü'\".jpg": b"second" * 1000,
    "train.csv": b"ImageId,ClassId\n",
    "empty.txt": b"",
}
LARGE = os.urandom(12 << 20)  # above the size at which parts are fetched side by side


@pytest.fixture(scope="module")
def stored(s3_server: S3Server) -> str:
    """FILES below fetch/line3/steel/, a neighbour of that name, one large object, and names at odds."""
    client, root = s3_server.client(), f"s3://{BUCKET}/fetch"
    for path, content in FILES.items():
        client.put_object(Bucket=BUCKET, Key=f"fetch/line3/steel/{path}", Body=content)
    client.put_object(Bucket=BUCKET, Key="fetch/line3/steel/images/", Body=b"")  # as consoles make folders
    client.put_object(Bucket=BUCKET, Key="fetch/line3/steel-old/train.csv", Body=b"not this")
    client.put_object(Bucket=BUCKET, Key="fetch/sets/large.zip", Body=LARGE)
    client.put_object(Bucket=BUCKET, Key="fetch/odd/a", Body=b"1")
    client.put_object(Bucket=BUCKET, Key="fetch/odd/a/b", Body=b"2")
    return root


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("prefix", ["line3/steel/", "line3/steel"])
@pytest.mark.usefixtures("s3")
def test_a_prefix_comes_as_a_folder(stored: str, prefix: str, tmp_path: Path) -> None:
    told: list[tuple[int, str]] = []

    def progress(items: Any, total: int, label: str) -> Any:
        told.append((total, label))
        return items

    folder = fetch_s3(f"{stored}/{prefix}", tmp_path / "here", progress=progress)
    assert files_below(folder) == FILES
    assert told == [(4, "fetch")]


@pytest.mark.usefixtures("s3")
def test_an_object_comes_as_a_file(stored: str, tmp_path: Path) -> None:
    assert fetch_s3(f"{stored}/sets/large.zip", tmp_path / "here").read_bytes() == LARGE


@pytest.mark.usefixtures("s3")
def test_a_whole_bucket(s3_server: S3Server, tmp_path: Path) -> None:
    s3_server.client().create_bucket(Bucket="small")
    s3_server.client().put_object(Bucket="small", Key="train.csv", Body=b"all")
    for source in ("s3://small", "s3://small/"):
        assert files_below(fetch_s3(source, tmp_path / source[5:].replace("/", "-"))) == {"train.csv": b"all"}


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("source", "settings", "expected"),
    [
        ("line3/none/", {}, "there is nothing there"),
        ("sets/large.tar", {}, "there is nothing there"),
        ("s3://none/line3/", {}, "has no bucket 'none'; check its name and AWS_ENDPOINT_URL"),
        ("line3/", {"AWS_SECRET_ACCESS_KEY": "s3cret"}, "does not accept the credentials .SignatureDoesNot"),
        ("line3/", {"AWS_ACCESS_KEY_ID": "s3cret"}, "does not accept the credentials .InvalidAccessKeyId"),
        ("line3/", {"AWS_ACCESS_KEY_ID": "s3cret\n"}, "look for blanks and line breaks in AWS_"),
        ("line3/", {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials; set AWS_"),
        ("line3/", {"AWS_SECRET_ACCESS_KEY": None}, "no credentials; set AWS_"),
        ("line3/", {"AWS_ENDPOINT_URL": "s3cret"}, "check AWS_ENDPOINT_URL and AWS_PROFILE"),
        ("line3/", {"AWS_PROFILE": "away"}, "check AWS_ENDPOINT_URL and AWS_PROFILE"),
    ],
)
def test_what_the_user_did_wrong_is_one_line_without_a_secret(
    stored: str,
    source: str,
    settings: dict[str, str | None],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in settings.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected) as caught:
        fetch_s3(source if source.startswith("s3:") else f"{stored}/{source}", tmp_path / "here")
    assert "\n" not in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("source", ["s3://", "s3:///key", "s3://key:s3cret@bucket/line3/"])
def test_an_address_without_a_bucket_or_with_a_password(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="credentials go into the environment") as caught:
        fetch_s3(source, tmp_path / "here")
    assert "s3cret" not in str(caught.value)


def test_a_reader_may_fetch(stored: str, s3: S3Server, tmp_path: Path, monkeypatch: Any) -> None:
    for name, value in s3.environment("reader").items():
        monkeypatch.setenv(name, value)
    assert files_below(fetch_s3(f"{stored}/line3/steel/", tmp_path / "here")) == FILES


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_a_server_that_is_away(stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:s3cret@127.0.0.1:9")
    with pytest.raises(JobError, match=r"127\.0\.0\.1:9 cannot be reached") as caught:
        fetch_s3(f"{stored}/line3/", tmp_path / "here")
    assert "s3cret" not in str(caught.value)


def test_a_connection_that_breaks_off_once(
    stored: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with breaking_way(s3.port, after=1 << 20, times=6) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        fetch_s3(f"{stored}/sets/large.zip", tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == LARGE


def test_a_connection_that_breaks_off(
    stored: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with breaking_way(s3.port, after=1 << 20) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(JobError, match=r"the connection to 127\.0\.0\.1:\d+ broke off; run it again"):
            fetch_s3(f"{stored}/sets/", tmp_path / "here")


@pytest.mark.usefixtures("s3")
def test_a_name_that_is_a_folder_too(stored: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is both an object and a folder; rename one"):
        fetch_s3(f"{stored}/odd/", tmp_path / "here")


def test_ingestion_from_s3_is_ingestion_from_the_folder(
    s3: S3Server, severstal_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def params(dataset: str, source: str) -> IngestParams:
        return PARAMS.ingest.model_copy(update={"dataset": dataset, "source": source})

    for path in severstal_source.rglob("*"):
        if path.is_file():
            key = f"ingest/{path.relative_to(severstal_source)}"
            s3.client().upload_file(str(path), BUCKET, key)
    sources = {"folder": str(severstal_source), "s3": f"s3://{BUCKET}/ingest/"}
    for name, source in sources.items():
        ingest(params("severstal", source), out=tmp_path / name)
    assert files_below(tmp_path / "s3") == files_below(tmp_path / "folder")

    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=f"s3://{BUCKET}/ingest/: not this dataset"):
        ingest(params("neu-seg", sources["s3"]), out=tmp_path / "new")
    with breaking_way(s3.port, after=1500) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(JobError, match=r"(broke off|failed to answer).*run it again"):
            ingest(params("severstal", sources["s3"]), out=tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


REFUSALS = {"AccessDenied": 403, "ExpiredToken": 400, "InternalError": 500, "SlowDown": 503}


class Liar(BaseHTTPRequestHandler):
    """Lists what the bucket's name says; every object holds four bytes."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        bucket = self.path.split("/")[1].split("?")[0]
        status, body = 200, b"four"
        if "list-type=2" in self.path:
            keys = {
                "leaves": ["set/../../evil"],
                "twice": ["set/x/a", "set/x//a"],
                "short": ["set/a"],
                "long": ["set/" + "x" * 300],
            }
            items = "".join(
                f"<Contents><Key>{key}</Key><Size>5</Size><ETag>x</ETag></Contents>" for key in keys.get(bucket, [])
            )
            body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{items}</ListBucketResult>".encode()
        if bucket in REFUSALS:
            self.asked.append(bucket)
            status = REFUSALS[bucket]
            body = f"<Error><Code>{bucket}</Code><Message>key s3cret</Message></Error>".encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def liar() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Liar) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


@pytest.mark.parametrize(
    ("bucket", "kind", "expected"),
    [
        ("leaves", UserError, "'../../evil' would leave the folder"),
        ("twice", UserError, "two objects whose names are one path"),
        ("long", UserError, "a name is too long for this system"),
        ("short", JobError, "4 bytes came and 5 were listed"),
        ("ExpiredToken", UserError, r"the credentials have expired \(ExpiredToken\); put new ones into"),
        ("AccessDenied", UserError, r"access refused \(AccessDenied\); the credentials need to list"),
        ("InternalError", JobError, r"failed to answer \(InternalError\); run it again"),
        ("SlowDown", JobError, r"failed to answer \(SlowDown\); run it again"),
    ],
)
def test_a_server_that_lies_or_refuses(
    liar: str, bucket: str, kind: type[Exception], expected: str, tmp_path: Path, monkeypatch: Any
) -> None:
    for name, value in S3Server(0).environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", liar)
    retry_at_once(monkeypatch, "S3")
    Liar.asked.clear()
    with pytest.raises(kind, match=expected) as caught:
        fetch_s3(f"s3://{bucket}/set/", tmp_path / "inner" / "here")
    assert "s3cret" not in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in ([], ["a"])
    if bucket in REFUSALS:  # boto3 asks three times each time; what waiting does not mend is asked once
        assert len(Liar.asked) == (9 if kind is JobError else 1)


@pytest.mark.usefixtures("s3")
def test_a_revision_changes_with_the_content_alone(s3_server: S3Server) -> None:
    client, address = s3_server.client(), f"s3://{BUCKET}/revisions/"
    client.put_object(Bucket=BUCKET, Key="revisions/a.jpg", Body=b"one")
    first = revision(address)
    assert len(first) == 64
    assert revision(address) == first
    client.put_object(Bucket=BUCKET, Key="revisions/a.jpg", Body=b"two")  # of the same size
    second = revision(address)
    client.put_object(Bucket=BUCKET, Key="revisions/b.jpg", Body=b"")
    third = revision(address)
    client.delete_object(Bucket=BUCKET, Key="revisions/b.jpg")
    assert len({first, second, third}) == 3
    assert revision(address) == second
    with pytest.raises(UserError, match="there is nothing there"):
        revision(f"s3://{BUCKET}/nowhere/")
