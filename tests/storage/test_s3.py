"""Sources and folders in S3, on a real server, and on one that lies."""

import os
from pathlib import Path
from typing import Any

import pytest

from dbrnet.config import IngestParams
from dbrnet.errors import JobError, UserError
from dbrnet.files import MARKER, claim
from dbrnet.steps.ingest import ingest
from dbrnet.storage.s3 import MANIFEST, S3Folder, fetch_s3, receive_folder, send_folder
from dbrnet.storage.source import revision
from tests.http_server import Handler, serving
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
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("prefix", ["line3/steel/", "line3/steel"])
@pytest.mark.usefixtures("s3")
def test_a_prefix_is_fetched_as_a_folder(stored: str, prefix: str, tmp_path: Path) -> None:
    bars: list[tuple[int, str]] = []

    def progress(items: Any, total: int, label: str) -> Any:
        bars.append((total, label))
        return items

    folder = fetch_s3(f"{stored}/{prefix}", tmp_path / "here", progress=progress)
    assert files_below(folder) == FILES
    assert bars == [(4, "fetch")]


@pytest.mark.usefixtures("s3")
def test_an_object_is_fetched_as_a_file(stored: str, tmp_path: Path) -> None:
    assert fetch_s3(f"{stored}/sets/large.zip", tmp_path / "here").read_bytes() == LARGE


@pytest.mark.usefixtures("s3")
def test_a_whole_bucket_is_fetched(s3_server: S3Server, tmp_path: Path) -> None:
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
def test_a_user_error_is_one_line_without_a_secret(
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
def test_an_address_without_a_bucket_or_with_a_password_is_refused(source: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="credentials go into the environment") as caught:
        fetch_s3(source, tmp_path / "here")
    assert "s3cret" not in str(caught.value)


def test_read_rights_are_enough_to_fetch(stored: str, s3: S3Server, tmp_path: Path, monkeypatch: Any) -> None:
    for name, value in s3.environment("reader").items():
        monkeypatch.setenv(name, value)
    assert files_below(fetch_s3(f"{stored}/line3/steel/", tmp_path / "here")) == FILES


@pytest.mark.slow
@pytest.mark.usefixtures("s3")
def test_an_unreachable_server_is_one_line_without_a_password(
    stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://me:s3cret@127.0.0.1:9")
    with pytest.raises(JobError, match=r"127\.0\.0\.1:9 cannot be reached") as caught:
        fetch_s3(f"{stored}/line3/", tmp_path / "here")
    assert "s3cret" not in str(caught.value)


def test_retries_a_connection_that_breaks_off(
    stored: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with breaking_way(s3.port, after=1 << 20, times=6) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        fetch_s3(f"{stored}/sets/large.zip", tmp_path / "here")
    assert (tmp_path / "here").read_bytes() == LARGE


def test_a_connection_that_keeps_breaking_off_is_one_line(
    stored: str, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with breaking_way(s3.port, after=1 << 20) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(JobError, match=r"the connection to 127\.0\.0\.1:\d+ broke off; run it again"):
            fetch_s3(f"{stored}/sets/", tmp_path / "here")


@pytest.mark.usefixtures("s3")
def test_a_name_that_is_object_and_folder_is_refused(stored: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is both an object and a folder; rename one"):
        fetch_s3(f"{stored}/odd/", tmp_path / "here")


def test_ingesting_from_s3_equals_ingesting_the_folder(
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


LISTS = {
    "leaves": ["set/../../evil"],
    "twice": ["set/x/a", "set/x//a"],
    "short": ["set/a"],
    "long": ["set/" + "x" * 300],
}


class Liar(Handler):
    """Lists what the bucket's name says; every object holds four bytes. The state counts refusals."""

    def answer(self) -> None:
        bucket = self.path.split("/")[1].split("?")[0]
        if bucket in REFUSALS:
            self.server.state.append(bucket)
            body = f"<Error><Code>{bucket}</Code><Message>key s3cret</Message></Error>"
            self.respond(REFUSALS[bucket], body.encode())
        elif "list-type=2" in self.path:
            items = [f"<Contents><Key>{key}</Key><Size>5</Size><ETag>x</ETag></Contents>" for key in LISTS[bucket]]
            list_ = f"<ListBucketResult><IsTruncated>false</IsTruncated>{''.join(items)}</ListBucketResult>"
            self.respond(200, list_.encode())
        else:
            self.respond(200, b"four")


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
def test_wrong_lists_and_refusals_are_one_line(
    bucket: str, kind: type[Exception], expected: str, tmp_path: Path, monkeypatch: Any
) -> None:
    for name, value in S3Server(0).environment().items():
        monkeypatch.setenv(name, value)
    retry_at_once(monkeypatch, "S3")
    with serving(Liar, list[str]()) as liar, pytest.raises(kind, match=expected) as caught:
        monkeypatch.setenv("AWS_ENDPOINT_URL", liar.address)
        fetch_s3(f"s3://{bucket}/set/", tmp_path / "inner" / "here")
    assert "s3cret" not in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] in ([], ["a"])
    if bucket in REFUSALS:  # boto3 makes three requests for each try; what waiting does not mend is tried once
        assert len(liar.state) == (9 if kind is JobError else 1)


@pytest.mark.usefixtures("s3")
def test_a_revision_changes_only_with_the_content(s3_server: S3Server) -> None:
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


SENT = {"model.pt": bytes(range(256)) * 5000, "curves/loss ü.csv": b"1,2\n", "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in SENT.items():
        (tmp_path / "sent" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sent" / name).write_bytes(content)
    return tmp_path / "sent"


@pytest.mark.usefixtures("s3")
def test_a_folder_is_sent_and_received(folder: Path, tmp_path: Path) -> None:
    address = f"s3://{BUCKET}/folders/round"
    send_folder(folder, address)
    S3Folder(address).write("stranger", b"not listed")
    claim(tmp_path / "out", "node")
    (tmp_path / "out/previous").touch()
    assert files_below(receive_folder(address, tmp_path / "out", "node")) == SENT


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("model.pt", SENT["model.pt"][:-1], r"model\.pt is not what its manifest\.json says; send it again"),
        ("model.pt", None, r"model\.pt is missing"),
        (MANIFEST, None, r"manifest\.json is missing: it was not sent, or not to its end"),
        (MANIFEST, b"{", r"manifest\.json is garbled"),
    ],
)
def test_an_incomplete_folder_is_refused_and_the_previous_one_stays(
    s3: S3Server, folder: Path, tmp_path: Path, name: str, content: bytes | None, expected: str
) -> None:
    address = f"s3://{BUCKET}/folders/half"
    send_folder(folder, address)
    if content is None:
        s3.client().delete_object(Bucket=BUCKET, Key=f"folders/half/{name}")
    else:
        S3Folder(address).write(name, content)
    claim(tmp_path / "out", "node")
    (tmp_path / "out/previous").touch()
    with pytest.raises(JobError, match=expected):
        receive_folder(address, tmp_path / "out", "node")
    assert files_below(tmp_path / "out") == {"previous": b""}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sent"]


@pytest.mark.usefixtures("s3")
def test_a_manifest_with_a_path_outside_is_refused(tmp_path: Path) -> None:
    address = f"s3://{BUCKET}/folders/evil"
    S3Folder(address).write(MANIFEST, b'{"files": {"../x": "4d5e"}}')
    with pytest.raises(UserError, match=r"'\.\./x' would leave the folder"):
        receive_folder(address, tmp_path / "out", "node")
