"""Bringing a source to this machine, wherever it lies."""

import hashlib
from pathlib import Path

from dbrnet.errors import UserError
from dbrnet.progress import Progress
from dbrnet.storage.http import download, is_url, url_revision


def fetch(source: str, scratch: Path, *, progress: Progress | None = None) -> Path:
    """The folder or archive that `source` names: a path as it is, what an address names fetched to `scratch`.

    Raises `UserError` where the address or the credentials are wrong, `JobError` where the server is away or
    the connection breaks off; the caller then throws `scratch` away.
    """
    if is_url(source):
        return download(source, scratch)
    if source.startswith("s3://"):
        from dbrnet.storage.s3 import fetch_s3  # boto3 takes a moment to load, and few need it

        return fetch_s3(source, scratch / "fetched", progress=progress)
    return Path(source)


def revision(source: str) -> str:
    """What tells whether a source has changed, without reading it: 64 hex digits, others once it may have.

    Of an S3 prefix the names, sizes and ETags; of an http(s) address what its server says of its version; of
    a path the names, sizes and times of change. Raises as `fetch` does.
    """
    if is_url(source):
        found = url_revision(source)
    elif source.startswith("s3://"):
        from dbrnet.storage.s3 import s3_revision

        found = s3_revision(source)
    else:
        found = _path_revision(Path(source))
    return hashlib.sha256("\n".join([source, *found]).encode()).hexdigest()


def _path_revision(path: Path) -> list[str]:
    if not path.exists():
        raise UserError(f"{path} does not exist; correct ingest.source")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    known = [(file.relative_to(path), file.stat()) for file in files if file.is_file()]
    return [f"{name}\0{state.st_size}\0{state.st_mtime_ns}" for name, state in known]
