"""Fetching a source that lies behind an http(s) URL."""

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
    return urllib.parse.urlsplit(source).scheme in {"http", "https"}


def download(url: str, folder: Path) -> Path:
    """Fetch `url` into `folder` under the address's last name, and return the file.

    Raises `UserError` when the server has no such file or the answer is cut short or absurdly large,
    `JobError` when the server cannot be reached.
    """
    name = Path(urllib.parse.urlsplit(url).path).name
    if not name:
        raise UserError(f"{url}: the address names no file")
    target = folder / name
    with _asked(urllib.request.Request(url)) as answer, target.open("wb") as file:  # noqa: S310
        expected = int(answer.headers.get("Content-Length") or -1)
        if expected > MAX_BYTES:
            raise UserError(f"{url}: {expected} bytes are more than the bound of {MAX_BYTES}")
        shutil.copyfileobj(answer, file, 1 << 20)
    if expected >= 0 and target.stat().st_size != expected:
        raise JobError(f"{url}: the connection broke off; {target.stat().st_size} of {expected} bytes came")
    return target


def url_revision(url: str) -> list[str]:
    """What the server says of the version of `url`; something new each time where it says nothing.

    Raises as `download` does.
    """
    with _asked(urllib.request.Request(url, method="HEAD")) as answer:  # noqa: S310
        headers = answer.headers
    said = [headers.get(name) for name in ("ETag", "Last-Modified")]
    if not any(said):
        return [uuid.uuid4().hex]
    return [str(one) for one in (*said, headers.get("Content-Length"))]


@contextmanager
def _asked(request: urllib.request.Request) -> Iterator[Any]:
    """The server's answer; its failures in one line."""
    url = request.full_url
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            yield answer
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server answers {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise JobError(f"{url}: cannot be reached ({error.reason})") from None
