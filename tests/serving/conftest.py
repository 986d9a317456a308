"""A running service, and what tests ask of it."""

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import pytest

from dbrnet.data.dataset import Image
from tests.conftest import Exported


@dataclass(frozen=True)
class Reply:
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Service:
    """`dbrnet serve`, or the gated service, in a process of its own; `errors` collects its log."""

    process: "subprocess.Popen[str]"
    port: int
    errors: list[str]

    def ask(self, path: str, method: str = "GET", body: Any = None, **headers: str) -> Reply:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, named)
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def predict(self, body: Any, kind: str = "image/png", path: str = "/predict", **headers: str) -> Reply:
        return self.ask(path, "POST", body, Content_Type=kind, **headers)

    def metric(self, name: str) -> float:
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.ask("/metrics").body.decode(), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def running(*command: str, folder: Path | None = None) -> Iterator[Service]:
    """Start a service, read its port from the line that says it is ready, and end it."""
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, *command], stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=folder)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    try:
        first = process.stderr.readline()
        found = re.search(r"^ready: .*:(\d+)$", first)
        assert found, first
        errors: list[str] = []
        threading.Thread(target=errors.extend, args=(process.stderr,), daemon=True).start()
        yield Service(process, int(found[1]), errors)
    finally:
        process.kill()
        process.wait(60)
        process.stdin.close()
        process.stdout.close()


def serve(model: Path | str, *options: str) -> tuple[str, ...]:
    return ("-m", "dbrnet", "serve", "--model", str(model), "--port", "0", *options)


def png(image: Image) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def wait_until(true: Callable[[], bool]) -> None:
    """Ask again until it holds; a test whose service never gets there fails by its time limit."""
    while not true():
        time.sleep(0.02)


@pytest.fixture(scope="session")
def service(exported: Exported) -> Iterator[Service]:
    """`dbrnet serve` as a user starts it, with small limits."""
    with running(*serve(exported[0], "--max-mb", "1")) as started:
        yield started
        assert started.stop() == 0
