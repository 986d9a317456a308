"""Unpacking archives that are not trusted: anyone may have made or damaged them."""

import errno
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from dbrnet.errors import UserError

MAX_BYTES = 32 << 30  # unpacked; the whole Severstal set has 1.6 GB
MAX_MEMBERS = 500_000
MAX_RATIO = 200  # of unpacked bytes to packed ones, past the first GiB: images and masks stay far below

_BLOCK = 1 << 20
_FREE_BYTES = 1 << 30
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression method that zipfile does not know
    UnicodeDecodeError,
)


def open_source(source: Path, workdir: Path) -> Path:
    """The folder that holds the source's files: `source` itself, or `workdir` with its archive unpacked.

    Archives (.zip, .tar, .tar.gz, .tar.xz, .tar.bz2) are recognised by their content. Raises `UserError` where
    the source is missing, damaged or unsafe.
    """
    if source.is_dir():
        return source
    if not source.is_file():
        raise UserError(f"{source} does not exist; give the dataset's folder or archive")
    unpack(source, workdir)
    return workdir


def unpack(archive: Path, target: Path, *, max_bytes: int = MAX_BYTES, max_members: int = MAX_MEMBERS) -> None:
    """Unpack the plain files of `archive` under `target`.

    Raises `UserError` for paths that leave the target, links and devices, duplicate paths, encryption, damage,
    more than `max_members` members, and more than `max_bytes` bytes or, past the first GiB, than `MAX_RATIO`
    times the archive's own. Sizes are counted while writing, since headers can lie. After an error `target` may
    hold some of the files.
    """
    target.mkdir(parents=True, exist_ok=True)
    max_bytes = bytes_left = min(max_bytes, max(_FREE_BYTES, MAX_RATIO * archive.stat().st_size))
    try:
        with archive.open("rb") as file:
            is_zip = file.read(4) in (b"PK\x03\x04", b"PK\x05\x06")
        members = _zip_members(archive) if is_zip else _tar_members(archive)
        for count, (name, content) in enumerate(members, start=1):
            if count > max_members:
                raise UserError(f"{archive} holds more than {max_members} members; unpack it yourself")
            path = target / safe_path(name, archive)
            if content is None:
                path.mkdir(parents=True, exist_ok=True)
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with content, path.open("xb") as file:
                while block := content.read(_BLOCK):
                    bytes_left -= len(block)
                    if bytes_left < 0:
                        raise UserError(f"{archive} unpacks to more than {max_bytes} bytes; unpack it yourself")
                    file.write(block)
    except _DAMAGE as error:
        raise UserError(f"{archive} is damaged or cut short ({error}); fetch it again") from None
    except (FileExistsError, NotADirectoryError) as error:
        twice = Path(error.filename).relative_to(target)
        raise UserError(f"{archive} holds {twice} twice; fetch it again") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UserError(f"{archive} holds a name that is too long for this system; rename it") from None
        if error.errno not in (None, errno.EINVAL):  # these two are the decompressors', not the disk's
            raise
        raise UserError(f"{archive} is damaged ({error}); fetch it again") from None


Members = Iterator[tuple[str, IO[bytes] | None]]  # names and contents; None: a folder


def _zip_members(archive: Path) -> Members:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if not info.filename:
                raise UserError(f"{archive} holds a member without a name; fetch it again")
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise UserError(f"{archive}: {info.filename} is a link or a device; unpack it yourself")
            if info.flag_bits & 1:
                raise UserError(f"{archive}: {info.filename} is encrypted; unpack it yourself")
            yield info.filename, None if info.is_dir() else opened.open(info)


def _tar_members(archive: Path) -> Members:
    try:
        opened = tarfile.open(archive, "r:*")  # noqa: SIM115 (closed below)
    except tarfile.ReadError:
        raise UserError(f"{archive} is no .zip or .tar archive, or is damaged; fetch it again") from None
    with opened:
        for info in opened:
            if not (info.isfile() or info.isdir()):
                raise UserError(f"{archive}: {info.name} is a link or a device; unpack it yourself")
            yield info.name, None if info.isdir() else opened.extractfile(info)
        # tarfile takes a damaged header for the archive's end. The true end is a block of zeros.
        stream = opened.fileobj
        if stream is None or stream.seek(opened.offset) != opened.offset or stream.read(512) != bytes(512):
            raise tarfile.ReadError("a header is broken, or the end is missing")
        stream.read(_BLOCK)  # a compressed stream has its checksum at its end


def safe_path(name: str, source: Path | str) -> PurePosixPath:
    """The member `name` of `source` as a relative path; `UserError` where it would leave its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or {"\\", "\0"} & set(name) or re.match("[A-Za-z]:", name):
        raise UserError(f"{source}: the path {name!r} would leave the folder it is unpacked to")
    return path
