"""A small HTTP server on this machine, for tests that play a remote one."""

import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Server(ThreadingHTTPServer):
    """`state` is the test's own, which handlers reach as `self.server.state`."""

    state: Any = None

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    @property
    def address(self) -> str:
        return f"http://{self.place}"


class Handler(BaseHTTPRequestHandler):
    """Passes every request to `answer`, which a test overrides, and logs nothing."""

    server: Server

    def answer(self) -> None:
        """Respond to the request."""
        raise NotImplementedError

    def do_GET(self) -> None:
        """Any method."""
        self.answer()

    do_HEAD = do_POST = do_DELETE = do_GET  # noqa: N815

    def respond(self, status: int = 200, body: bytes = b"", **headers: str) -> None:
        """Send a response; headers are named with `_` for `-`."""
        self.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(
    handler: type[Handler], state: Any = None, *, port: int = 0, certificate: Path | None = None
) -> Iterator[Server]:
    """A server with `handler` until the block ends: on a free port by default, with TLS by `self_signed`'s folder."""
    with Server(("127.0.0.1", port), handler) as server:
        server.state = state
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate / "ca.crt", certificate / "key.pem")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def self_signed(folder: Path, name: str) -> Path:
    """The folder, now with a certificate for `name` (DNS:... or IP:...) in ca.crt, and its key in key.pem."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", "key.pem")
    command = ["openssl", "req", "-x509", "-subj", "/CN=test", "-addext", f"subjectAltName={name}", *key]
    subprocess.run([*command, "-out", "ca.crt"], cwd=folder, check=True, capture_output=True)
    return folder
