"""A real registry of images on this machine, as Debian packages it."""

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oras.client import OrasClient

from tests.registry.servers import free_port

BINARY = shutil.which("docker-registry")
HASHED = "reader:$2y$05$Yg61BTLu68B1Z3FARBliMu62RZMnyLj8TaK3zm4saB/QezVhsYgWC"  # its password is: word
LOGIN = {"auth": "cmVhZGVyOndvcmQ="}  # as `docker login` keeps it


@contextmanager
def image_registry(folder: Path, *, password: bool = False) -> Iterator[str]:
    """Its address, HOST:PORT; with `password` it lets in those alone who have logged in as `reader`."""
    port = free_port()
    (folder / "users").write_text(f"{HASHED}\n")
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "files")}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "auth": {"htpasswd": {"realm": "line", "path": str(folder / "users")}} if password else {},
    }
    (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(BINARY), "serve", folder / "config.yml"], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 30
            while not _listens(port):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait(30)


def push(address: str) -> str:
    """Push a small thing as an image to an open registry; its name, by digest."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "layer").write_text("a layer")
        client = OrasClient(insecure=True)
        answer = client.push(target=f"{address}/line/dbrnet:1", files=[f"{folder}/layer"], disable_path_validation=True)
    return f"{address}/line/dbrnet@{answer.headers['Docker-Content-Digest']}"


def _listens(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True  # it wants a password
    except OSError:
        return False
