"""A small Kubeflow Pipelines server over real HTTP: its backend, with faults and an order of requests."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.http_server import Handler, serving
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
    """A running server; with TLS where `certificate`, a folder of `self_signed`, is given."""
    state = KfpServer()
    with serving(_Handler, state, certificate=certificate) as server:
        state.address = f"http{'s' if certificate else ''}://localhost:{server.server_port}"
        yield state
        state.released.set()


class _Handler(Handler):
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        state: KfpServer = self.server.state
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        who = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if state.turns:
            state.turns.enter(who)
        try:
            self._answer(state, who, body)
        finally:
            if state.turns:
                state.turns.leave(who)

    def _answer(self, state: KfpServer, who: str, body: bytes) -> None:
        path = urlsplit(self.path).path
        state.requests.append(f"{self.command} {path}")
        match self._fault(state, path):
            case "hang":
                state.released.wait(30)
                self.close_connection = True
            case "drop":
                self.close_connection = True
            case "page":
                self.respond(200, b"<html>welcome</html>", Content_Type="text/html")
            case "login":
                self.respond(302, Content_Type="text/html", Location="/dex/auth")
            case fault:
                try:
                    if isinstance(fault, int):
                        raise RefusedError(fault, "made to fail")
                    self._admit(state, who)
                    with state.lock:
                        if state.on_request:
                            state.on_request(f"{self.command} {path}")
                        status, answer = 200, respond(state, self.command, self.path, body)
                        state.count()
                except RefusedError as refused:
                    status, answer = refused.status, {"error": str(refused), "code": 3, "message": str(refused)}
                if fault == "lost" and status == 200:
                    self.close_connection = True
                else:
                    self.respond(status, json.dumps(answer).encode(), Content_Type="application/json")

    def _fault(self, state: KfpServer, path: str) -> int | str | None:
        with state.lock:
            if state.allowed is not None:
                state.allowed -= 1
                if state.allowed < 0:
                    return "drop"
            for fault in state.faults:
                fits = re.fullmatch(fault.method, self.command) and re.fullmatch(fault.path, path)
                if fault.times and fits:
                    fault.times -= 1
                    return fault.what
        return None

    def _admit(self, state: KfpServer, who: str) -> None:
        if state.tokens is None or (state.cookie and self.headers.get("Cookie") == state.cookie):
            return
        if who not in state.tokens:
            raise RefusedError(403, "RBAC: access denied")
        if not state.tokens[who]:
            raise RefusedError(401, "Request header error: the token has expired")
