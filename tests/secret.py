"""A secret, the addresses that hold it, and a search for it in all that a command leaves."""

import base64
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.http_server import Handler
from tests.retrying import retry_at_once

SECRET = "s3cr3t-5c1f"
QUERY = f"?X-Amz-Signature={SECRET}&X-Amz-Expires=60#{SECRET}"
ADDRESS = f"https://ann:{SECRET}@data.invalid/set/raw.zip{QUERY}"
LOGIN = base64.b64encode(f"ann:{SECRET}".encode()).decode()
NEEDLES = (SECRET.encode(), LOGIN.encode())


@dataclass(frozen=True)
class Told:
    """How a command ended, and all that it printed."""

    status: int
    text: str

    def failed(self) -> None:
        """It ended as a command does that was given what is wrong, or that met a failure."""
        assert self.status in {1, 2}, self
        assert "error: " in self.text or "failed: " in self.text, self
        assert "Traceback" not in self.text, self


def told(main: Callable[[Sequence[str]], int], words: Sequence[str], log: Path) -> Told:
    """Run a command line in this process as if it were the process's own: printing and logs come to `log`."""
    root = logging.getLogger()
    handlers, root.handlers = root.handlers, []  # the command makes its own, as it does where it is alone
    try:
        with _printing_to(log):
            status = main(words)
    finally:
        root.handlers = handlers
    return Told(status, log.read_text())


@contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    """Also what subprocesses and libraries in C print."""
    sys.stdout.flush(), sys.stderr.flush()
    saved = {number: os.dup(number) for number in (1, 2)}
    with log.open("w", buffering=1) as file:
        for number in saved:
            os.dup2(file.fileno(), number)
        try:
            with redirect_stdout(file), redirect_stderr(file):
                yield
        finally:
            for number, copy in saved.items():
                os.dup2(copy, number)
                os.close(copy)


def found_in(folder: Path, given: Iterable[str] = ()) -> list[str]:
    """The files below `folder` that hold the secret, but for those (paths or folders in it) in `given`."""
    allowed = [folder / name for name in given]
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [
        str(path.relative_to(folder))
        for path in files
        if not any(path.is_relative_to(one) for one in allowed)
        and any(needle in path.read_bytes() for needle in NEEDLES)
    ]


Response = tuple[int, dict[str, str], bytes]  # status, headers, body


class Answers(Handler):
    """Answers a path as the server's `state` says by its first part, else as for "". Of status 0 it hangs up."""

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answers: dict[str, Response] = self.server.state
        path = self.path.partition("?")[0].strip("/").split("/")[0]
        status, headers, body = answers.get(path) or answers[""]
        if status:
            self.respond(status, body, **{name.replace("-", "_"): value for name, value in headers.items()})

    do_PUT = Handler.do_GET  # noqa: N815


def set_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of this machine's settings, and no minutes of waiting."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "AWS_", "KF_PIPELINES_", "DBRNET_")) and name != "DBRNET_DATASETS":
            monkeypatch.delenv(name)
    for name, value in {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NETRC": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_DEFAULT_REGION": "us-east-1",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }.items():
        monkeypatch.setenv(name, value)
    for policy in ("S3", "HTTP", "MLFLOW", "WEBHOOK"):
        retry_at_once(monkeypatch, policy, attempts=1)
