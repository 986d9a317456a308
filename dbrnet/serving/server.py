"""The HTTP server around the application: its socket, its limits, and how it stops."""

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Collection
from types import FrameType

import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from dbrnet.errors import UserError
from dbrnet.serving.responses import busy
from dbrnet.serving.worker import Worker

CONNECTIONS = 512  # more are answered 503
HEADER_SECONDS = 10.0  # from a connection's beginning to the end of its first request's headers
STOP_SECONDS = 25  # for the queue, after the signal to stop; Kubernetes kills after 30

log = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address, not yet listening; `UserError` where that cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host}:{port} ({reason}); choose another") from None
    return bound


def own_hosts(address: str) -> list[str]:
    """The host names that requests may use: on a loopback address only this machine's.

    Otherwise a web page whose own name points here could send requests through its visitor's browser.
    """
    local = ipaddress.ip_address(address.partition("%")[0]).is_loopback
    return ["localhost", "127.0.0.1", "[::1]", address] if local else ["*"]


def run(app: FastAPI, worker: Worker, listener: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT, then answer the queued requests and return."""
    limited = _ConnectionLimit(app)
    config = uvicorn.Config(
        limited,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=[("X-Content-Type-Options", "nosniff")],
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = _Server(config, worker)
    limited.connections = server.server_state.connections
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises them again when it has stopped
    try:
        server.run([listener])
    finally:
        worker.close()
    log.info("stopped")


class _ConnectionLimit:
    """The application, or a 503 while too many connections are open."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self.connections: Collection[object] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request. (uvicorn's own limit answers in plain text and without Retry-After.)"""
        if len(self.connections) <= CONNECTIONS:
            return await self._app(scope, receive, send)
        response = busy("too many connections are open").response
        response.headers["Connection"] = "close"
        return await response(scope, receive, send)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, worker: Worker) -> None:
        super().__init__(config)
        self._worker = worker

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and log the address."""
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            name = f"[{host}]" if ":" in host else host
            log.info("ready: %s on http://%s:%d", self._worker.model.runtime, name, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On a signal to stop: not ready from now on."""
        self._worker.accepting = False
        super().handle_exit(sig, frame)


class _Protocol(H11Protocol):
    """uvicorn's protocol, which by itself waits for ever for a connection's first request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEADER_SECONDS, self._close_if_silent)

    def _close_if_silent(self) -> None:
        if self.cycle is None:
            self.transport.close()
