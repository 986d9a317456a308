"""Bringing a source to this machine, wherever it lies."""

import hashlib
from pathlib import Path

from dbrnet.errors import UserError
from dbrnet.progress import Progress
from dbrnet.storage.http import download, is_url, url_revision
from dbrnet.storage.s3 import fetch_s3, s3_revision


def fetch(source: str, scratch: Path, *, progress: Progress | None = None) -> Path:
    """The folder or archive of `source`: a path as it is; an address is fetched into `scratch`.

    Raises `UserError` where the address or the credentials are wrong, `JobError` where the server is unavailable
    or the connection breaks off; the caller then discards `scratch`.
    """
    if is_url(source):
        return download(source, scratch)
    if source.startswith("s3://"):
        return fetch_s3(source, scratch / "fetched", progress=progress)
    return Path(source)


def revision(source: str) -> str:
    """64 hex digits that change when the source may have changed; its content is not read.

    They are made of names, sizes and ETags for an S3 prefix, of the server's stated version for an http(s)
    address, and of names, sizes and modification times for a path. Raises as `fetch` does.
    """
    if is_url(source):
        state = url_revision(source)
    elif source.startswith("s3://"):
        state = s3_revision(source)
    else:
        path = Path(source)
        if not path.exists():
            raise UserError(f"{path} does not exist; correct ingest.source")
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        entries = [(file.relative_to(path), file.stat()) for file in files if file.is_file()]
        state = [f"{name}\0{entry.st_size}\0{entry.st_mtime_ns}" for name, entry in entries]
    return hashlib.sha256("\n".join([source, *state]).encode()).hexdigest()
