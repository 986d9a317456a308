"""Fetching a source that lies behind an http(s) URL.

A user and a password come from ~/.netrc, or the file that NETRC names, as DVC too has them.
"""

import base64
import http.client
import netrc
import os
import shutil
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbrnet.errors import JobError, UserError

TIMEOUT_SECONDS = 60
MAX_BYTES = 64 << 30


def is_url(source: str) -> bool:
    """Whether `source` is an http(s) address rather than a path."""
    return source.lower().startswith(("http://", "https://"))


def download(url: str, folder: Path) -> Path:
    """Fetch `url` into `folder` under the address's last name, and return the file.

    Raises `UserError` when the server has no such file or that is absurdly large, `JobError` when the server
    cannot be reached or the answer is cut short.
    """
    name = Path(_parsed(url).path).name
    if not name:
        raise UserError(f"{url}: the address names no file")
    target = folder / name
    with _asked(url) as answer, target.open("wb") as file:
        expected = answer.length  # None: it does not say
        if expected is not None and expected > MAX_BYTES:
            raise UserError(f"{url}: {expected} bytes are more than the bound of {MAX_BYTES}")
        shutil.copyfileobj(answer, file, 1 << 20)
    if expected is not None and target.stat().st_size != expected:
        raise JobError(f"{url}: the connection broke off; {target.stat().st_size} of {expected} bytes came")
    return target


def url_revision(url: str) -> list[str]:
    """What the server says of the version of `url`; something new each time where it says nothing.

    Raises as `download` does.
    """
    with _asked(url, method="HEAD") as answer:
        headers = answer.headers
    said = [headers.get(name) for name in ("ETag", "Last-Modified")]
    if not any(said):
        return [uuid.uuid4().hex]
    return [str(one) for one in (*said, headers.get("Content-Length"))]


@contextmanager
def _asked(url: str, method: str = "GET") -> Iterator[Any]:
    """The server's answer; its failures in one line."""
    host = str(_parsed(url).hostname)
    request = urllib.request.Request(url, method=method)  # noqa: S310
    if authorization := _authorization(host):
        request.add_unredirected_header("Authorization", authorization)  # for this server and no other
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            yield answer
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise JobError(f"{url}: cannot be reached ({error.reason})") from None
    except (http.client.InvalidURL, UnicodeError):
        raise UserError(f"{url}: it, or what it leads to, is no http(s) address") from None
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise JobError(f"{url}: the connection broke off ({type(error).__name__})") from None


def _parsed(url: str) -> urllib.parse.SplitResult:
    """The address's parts; a `UserError` where it is none."""
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.hostname and (parts.port is None or parts.port) and not any(map(str.isspace, url)):
            return parts
    except ValueError:
        pass
    raise UserError("ingest.source is no http(s) address; look for blanks, brackets and a port that is none")


def _authorization(host: str) -> str | None:
    """What the .netrc file has for the host, as a header."""
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        found = netrc.netrc(path).authenticators(host)
    except FileNotFoundError:
        return None
    except netrc.NetrcParseError as error:  # whose words may be a password
        raise UserError(f"{path}, line {error.lineno}: not as a .netrc file has it; correct it") from None
    return found and f"Basic {base64.b64encode(f'{found[0]}:{found[2]}'.encode()).decode()}"
