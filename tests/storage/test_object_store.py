"""Folders sent to a real S3 server and received whole or not at all."""

from pathlib import Path

import pytest

from dbrnet.errors import JobError, UserError
from dbrnet.files import MARKER, claim
from dbrnet.storage.s3 import MANIFEST, S3Folder, receive_folder, send_folder
from tests.storage.s3_server import BUCKET, S3Server

FILES = {"model.pt": bytes(range(256)) * 5000, "curves/loss ü.csv": b"1,2\n", "empty": b""}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "sent" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sent" / name).write_bytes(content)
    return tmp_path / "sent"


def files_below(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != MARKER)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.usefixtures("s3")
def test_a_folder_is_sent_and_received(folder: Path, tmp_path: Path) -> None:
    address = f"s3://{BUCKET}/folders/round"
    send_folder(folder, address)
    S3Folder(address).write("stranger", b"not listed")
    claim(tmp_path / "out", "node")
    (tmp_path / "out/previous").touch()
    assert files_below(receive_folder(address, tmp_path / "out", "node")) == FILES


@pytest.mark.usefixtures("s3")
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("model.pt", FILES["model.pt"][:-1], r"model\.pt is not what its manifest\.json says; send it again"),
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
