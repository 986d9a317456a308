"""A small Kubeflow Pipelines server over real HTTP: its backend, with faults and an order of requests."""

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.pipelines.kfp_backend import Backend, RefusedError, respond


@dataclass
class Fault:
    """What happens instead of a response; one that is `lost` is made but not sent."""

    what: int | str  # a status, or: drop, lost, hang, page, login
    method: str = ".*"
    path: str = ".*"
    times: int = 1_000_000


class Turns:
    """Lets the requests of several clients through one at a time, in the order of `order`."""

    def __init__(self, order: str) -> None:
        self._left = list(order)
        self._gone: set[str] = set()
        self._changed = threading.Condition()

    def enter(self, who: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._next() in (who, None), timeout=30)

    def leave(self, who: str) -> None:
        with self._changed:
            if self._left:
                self._left.pop(0)
            self._changed.notify_all()

    def gone(self, who: str) -> None:
        """The client sends no more requests."""
        with self._changed:
            self._gone.add(who)
            self._changed.notify_all()

    def _next(self) -> str | None:
        while self._left and self._left[0] in self._gone:
            self._left.pop(0)
        return self._left[0] if self._left else None


@dataclass
class KfpServer(Backend):
    """The server's state, which tests look at and change."""

    address: str = ""
    tokens: dict[str, bool] | None = None  # each, and whether it is still valid; None: no token is required
    cookie: str | None = None  # a session that is as good as a token
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    allowed: int | None = None  # how many more requests are answered, before the client is cut off
    turns: Turns | None = None
    on_request: Callable[[str], None] | None = None  # called with `METHOD PATH` before the response
    released: threading.Event = field(default_factory=threading.Event)  # hanging requests end
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def kfp_server(certificate: Path | None = None) -> Iterator[KfpServer]:
    """A running server; with TLS where `certificate`, a PEM file with its key, is given."""
    state = KfpServer()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    state.address = f"http{'s' if certificate else ''}://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: KfpServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the tests look at the state."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        who = self.headers.get("Authorization", "").removeprefix("Bearer ")
        state, turns = self.state, self.state.turns
        if turns:
            turns.enter(who)
        try:
            path = urlsplit(self.path).path
            state.requests.append(f"{self.command} {path}")
            fault = self._fault(path)
            if fault in {"drop", "hang"}:
                if fault == "hang":
                    state.released.wait(30)
                self.close_connection = True
                return
            if fault == "page":
                self._send(200, b"<html>welcome</html>", "text/html")
                return
            if fault == "login":
                self._send(302, b"", "text/html", Location="/dex/auth")
                return
            try:
                if isinstance(fault, int):
                    raise RefusedError(fault, "made to fail")
                self._admit(who)
                with state.lock:
                    if state.on_request:
                        state.on_request(f"{self.command} {path}")
                    answer = respond(state, self.command, self.path, body)
                    state.count()
            except RefusedError as refused:
                answer = {"error": str(refused), "code": 3, "message": str(refused), "details": []}
                self._send(refused.status, json.dumps(answer).encode())
                return
            if fault == "lost":
                self.close_connection = True
                return
            self._send(200, json.dumps(answer).encode())
        finally:
            if turns:
                turns.leave(who)

    do_POST = do_DELETE = do_GET  # noqa: N815

    def _fault(self, path: str) -> int | str | None:
        with self.state.lock:
            if self.state.allowed is not None:
                self.state.allowed -= 1
                if self.state.allowed < 0:
                    return "drop"
            for fault in self.state.faults:
                fits = re.fullmatch(fault.method, self.command) and re.fullmatch(fault.path, path)
                if fault.times and fits:
                    fault.times -= 1
                    return fault.what
        return None

    def _admit(self, who: str) -> None:
        if self.state.cookie is not None and self.headers.get("Cookie") == self.state.cookie:
            return
        if self.state.tokens is None:
            return
        if who not in self.state.tokens:
            raise RefusedError(403, "RBAC: access denied")
        if not self.state.tokens[who]:
            raise RefusedError(401, "Request header error: the token has expired")

    def _send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Type": kind, "Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
