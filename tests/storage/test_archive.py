import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbrnet.errors import UserError
from dbrnet.storage.archive import open_source, unpack

FILES = {"top/a.txt": b"first", "top/deep/b.bin": bytes(range(256)) * 300, "top/empty": b""}


def _zip(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def _tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _refused(archive: Path, target: Path, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        unpack(archive, target)
    assert str(archive) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz", "w:bz2"])
def test_unpacks_every_kind_of_archive(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "archive"  # no suffix: told by content
    archive = _zip(path, FILES) if mode == "zip" else _tar(path, FILES, mode)
    assert _tree(open_source(archive, tmp_path / "work")) == FILES


def test_a_folder_is_used_in_place(tmp_path: Path) -> None:
    assert open_source(tmp_path, tmp_path / "work") == tmp_path
    assert not (tmp_path / "work").exists()


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.zip does not exist"):
        open_source(tmp_path / "nowhere.zip", tmp_path / "work")


@pytest.mark.parametrize("kind", [_zip, _tar])
@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/evil", "C:/evil", "c:evil", "..\\evil", "a\\..\\..\\evil"]
)
def test_paths_outside_the_target_are_refused(tmp_path: Path, kind: type, name: str) -> None:
    archive = kind(tmp_path / "archive", {"good": b"1", name: b"2"})
    _refused(archive, tmp_path / "deep" / "work", "would leave the folder")
    assert set(_tree(tmp_path)) <= {"archive", "deep/work/good"}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_tar_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    _refused(path, tmp_path / "work", "link is a link or a device")
    assert not _tree(tmp_path / "work")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_zip_links_and_devices_are_refused(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("link")
    info.external_attr = (kind | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    _refused(tmp_path / "archive.zip", tmp_path / "work", "link is a link or a device")


@pytest.mark.parametrize("kind", [_zip, _tar])
def test_bytes_and_members_are_bounded(tmp_path: Path, kind: type) -> None:
    archive = kind(tmp_path / "archive", {"a": bytes(1000), "b": bytes(1000)})
    unpack(archive, tmp_path / "just", max_bytes=2000, max_members=2)
    with pytest.raises(UserError, match="more than 1999 bytes"):
        unpack(archive, tmp_path / "bytes", max_bytes=1999)
    with pytest.raises(UserError, match="more than 1 members"):
        unpack(archive, tmp_path / "members", max_members=1)


@pytest.mark.parametrize("kind", [_zip, _tar])
def test_a_bomb_is_refused_by_its_ratio(tmp_path: Path, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {"bomb": bytes(300_000)}
    archive = _zip(tmp_path / "bomb", content) if kind is _zip else _tar(tmp_path / "bomb", content, "w:xz")
    assert archive.stat().st_size < 1000
    unpack(archive, tmp_path / "small enough to bear")
    monkeypatch.setattr("dbrnet.storage.archive._FREE_BYTES", 100_000)
    with pytest.raises(UserError, match="unpacks to more than"):
        unpack(archive, tmp_path / "work")


PARTS = st.sampled_from(["..", ".", "", "a", "A", "b.png", "new\nline", "é", "x" * 300, "C:", "~", "a\\b", "-rf"])
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join).filter(bool)


@given(st.lists(st.tuples(NAMES, st.binary(max_size=3)), max_size=4), st.sampled_from([_zip, _tar]))
@settings(max_examples=60, deadline=None)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_any_member_name_stays_inside_or_is_refused(
    members: list[tuple[str, bytes]], kind: Callable[..., Path]
) -> None:
    with TemporaryDirectory() as folder:
        archive = kind(Path(folder, "archive"), dict(members))
        target = Path(folder, "in/side/work")
        try:
            unpack(archive, target)
        except UserError as error:
            assert str(error).isprintable()  # noqa: PT017 (any other exception fails the test)
        written = {path for path in Path(folder).rglob("*") if path.is_file()} - {archive}
        assert all(path.is_relative_to(target) for path in written)


def test_a_member_without_a_name_is_refused(tmp_path: Path) -> None:
    nameless = zipfile.ZipInfo("x")
    nameless.filename = ""
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr(nameless, b"1")
    _refused(tmp_path / "archive.zip", tmp_path / "work", "holds a member without a name")


def test_a_header_that_understates_the_size_is_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "archive.zip", {"bomb": bytes(1_000_000)})
    true_size, lie = (1_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")
    content = archive.read_bytes()
    assert content.count(true_size) == 2
    archive.write_bytes(content.replace(true_size, lie))
    _refused(archive, tmp_path / "work", "damaged")
    assert sum(map(len, _tree(tmp_path / "work").values())) <= 10


def test_an_encrypted_zip_is_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "archive.zip", {"secret": b"1"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1  # the flag in the central directory
    archive.write_bytes(content)
    _refused(archive, tmp_path / "work", "secret is encrypted")


@pytest.mark.parametrize("kind", [_zip, _tar])
def test_duplicate_paths_are_refused(tmp_path: Path, kind: type) -> None:
    archive = kind(tmp_path / "archive", {"a": b"1", "a/b": b"2"})
    _refused(archive, tmp_path / "work", "holds a.* twice")


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:xz"])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.6, 0.95])
def test_an_archive_cut_short_is_refused(tmp_path: Path, mode: str, kept: float) -> None:
    path = tmp_path / "archive"
    archive = _zip(path, FILES, zipfile.ZIP_STORED) if mode == "zip" else _tar(path, FILES, mode)
    content = archive.read_bytes()
    if mode == "w":  # what follows the end mark of a plain tar is padding
        content = content.rstrip(b"\0")
    archive.write_bytes(content[: int(len(content) * kept)])
    _refused(archive, tmp_path / "work", "damaged|no .zip or .tar")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_damaged_compressed_stream_is_refused(tmp_path: Path, mode: str) -> None:
    archive = _tar(tmp_path / "archive", FILES, mode)
    content = archive.read_bytes()
    for position in range(10, len(content), 41):
        flipped = content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]
        archive.write_bytes(flipped)
        target = tmp_path / f"{position}"
        try:
            unpack(archive, target)
        except UserError as error:
            assert str(archive) in str(error)  # noqa: PT017 (any other exception fails the test)
        else:
            assert _tree(target) == FILES


def test_flipped_bits_are_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "archive.zip", FILES, zipfile.ZIP_STORED)
    content = bytearray(archive.read_bytes())
    content[content.index(bytes(range(256))) + 50] ^= 1
    archive.write_bytes(content)
    _refused(archive, tmp_path / "work", "damaged")


def test_a_damaged_tar_header_is_not_taken_for_the_end(tmp_path: Path) -> None:
    archive = _tar(tmp_path / "archive.tar", FILES)
    content = bytearray(archive.read_bytes())
    content[content.index(b"top/deep")] ^= 1  # the header's checksum no longer holds
    archive.write_bytes(content)
    _refused(archive, tmp_path / "work", "damaged")
