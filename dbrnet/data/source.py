"""Bringing a source to this machine, wherever it lies."""

from pathlib import Path

from dbrnet.data.download import download, is_url
from dbrnet.progress import Progress


def fetch(source: str, scratch: Path, *, progress: Progress | None = None) -> Path:
    """The folder or archive that `source` names: a path as it is, what an address names fetched to `scratch`.

    Raises `UserError` where the address or the credentials are wrong, `JobError` where the server is away or
    the connection breaks off; the caller then throws `scratch` away.
    """
    if is_url(source):
        return download(source, scratch)
    if source.startswith("s3://"):
        from dbrnet.data.s3 import fetch_s3  # boto3 takes a moment to load, and few need it

        return fetch_s3(source, scratch / "fetched", progress=progress)
    return Path(source)
