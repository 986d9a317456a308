"""Bringing a source to this machine, wherever it lies: a path, an http(s) address or S3.

For http(s) a user and a password come from ~/.netrc, or the file that NETRC names, as for DVC.
"""

import base64
import hashlib
import http.client
import netrc
import os
import shutil
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbrnet.errors import JobError, UnavailableError, UserError
from dbrnet.progress import Progress
from dbrnet.retries import HTTP

TIMEOUT_SECONDS = 60
MAX_BYTES = 64 << 30
_OVERLOADED = {429, 500, 502, 503, 504}


def fetch(source: str, scratch: Path, *, progress: Progress | None = None) -> Path:
    """The folder or archive of `source`: a path as it is; an address is fetched into `scratch`.

    Raises `UserError` where the address or the credentials are wrong, `JobError` where the server is unavailable
    or the connection breaks off; the caller then discards `scratch`.
    """
    if is_url(source):
        return download(source, scratch)
    if source.startswith("s3://"):
        from dbrnet.storage.s3 import fetch_s3  # boto3 takes a while, and few sources need it

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
        from dbrnet.storage.s3 import s3_revision

        state = s3_revision(source)
    else:
        path = Path(source)
        if not path.exists():
            raise UserError(f"{path} does not exist; correct ingest.source")
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        entries = [(file.relative_to(path), file.stat()) for file in files if file.is_file()]
        state = [f"{name}\0{entry.st_size}\0{entry.st_mtime_ns}" for name, entry in entries]
    return hashlib.sha256("\n".join([source, *state]).encode()).hexdigest()


def is_url(source: str) -> bool:
    """Whether `source` is an http(s) address rather than a path."""
    return source.lower().startswith(("http://", "https://"))


@HTTP.retried
def download(url: str, folder: Path) -> Path:
    """Fetch `url` into `folder` under the last name in the address, and return the file.

    Raises `UserError` where the server has no such file or the file is too large, `JobError` where the server
    stays unavailable or the connection keeps breaking off.
    """
    name = Path(_parsed(url).path).name
    if not name:
        raise UserError(f"{url}: the address names no file")
    target = folder / name
    with _response(url) as response, target.open("wb") as file:
        expected = response.length  # None: unknown
        if expected is not None and expected > MAX_BYTES:
            raise UserError(f"{url}: {expected} bytes are more than the bound of {MAX_BYTES}")
        shutil.copyfileobj(response, file, 1 << 20)
    if expected is not None and (size := target.stat().st_size) != expected:
        raise UnavailableError(f"{url}: the connection broke off; {size} of {expected} bytes came")
    return target


@HTTP.retried
def url_revision(url: str) -> list[str]:
    """The version that the server states for `url`, or a new one each time where it states none.

    Raises as `download` does.
    """
    with _response(url, method="HEAD") as response:
        version = [response.headers.get(name) for name in ("ETag", "Last-Modified")]
        if not any(version):
            return [uuid.uuid4().hex]
        return [str(value) for value in (*version, response.headers.get("Content-Length"))]


@contextmanager
def _response(url: str, method: str = "GET") -> Iterator[Any]:
    # urllib and not requests: it trusts the certificates of the system and of SSL_CERT_FILE, which factories set.
    authorization = _authorization(str(_parsed(url).hostname))
    request = urllib.request.Request(url, method=method)  # noqa: S310
    if authorization:
        request.add_unredirected_header("Authorization", authorization)  # for this server and no other
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:  # noqa: S310
            yield response
    except urllib.error.HTTPError as error:
        message = f"{url}: the server answers {error.code} {error.reason}"
        raise (UnavailableError(message) if error.code in _OVERLOADED else UserError(message)) from None
    except urllib.error.URLError as error:
        reason = error.reason
        lasting = isinstance(reason, ssl.SSLError) or getattr(reason, "errno", None) == socket.EAI_NONAME
        raise (JobError if lasting else UnavailableError)(f"{url}: cannot be reached ({reason})") from None
    except (http.client.InvalidURL, UnicodeError):
        raise UserError(f"{url}: it, or what it leads to, is no http(s) address") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise UnavailableError(f"{url}: the connection broke off ({type(error).__name__})") from None


def _parsed(url: str) -> urllib.parse.SplitResult:
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.hostname and (parts.port is None or parts.port) and not any(map(str.isspace, url)):
            return parts
    except ValueError:
        pass
    raise UserError("ingest.source is no http(s) address; look for blanks, brackets and a port that is none")


def _authorization(host: str) -> str | None:
    """The header for the host's entry in the .netrc file."""
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        entry = netrc.netrc(path).authenticators(host)
    except FileNotFoundError:
        return None
    except netrc.NetrcParseError as error:  # its message may hold a password
        raise UserError(f"{path}, line {error.lineno}: not as a .netrc file has it; correct it") from None
    return entry and f"Basic {base64.b64encode(f'{entry[0]}:{entry[2]}'.encode()).decode()}"
