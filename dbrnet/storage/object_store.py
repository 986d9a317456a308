"""Folders in S3, read and written object by object, or sent as a whole.

A folder is sent with a manifest as its last object, which lists each file's SHA-256. Its receiver takes the
listed files alone and checks them, so a sender that is killed half-way has sent nothing.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from dbrnet.errors import JobError
from dbrnet.files import atomic_directory
from dbrnet.storage.archive import safe_path
from dbrnet.storage.s3 import PARALLEL, Bucket

MANIFEST = "manifest.json"

Item = TypeVar("Item")
Result = TypeVar("Result")


class S3Folder:
    """The objects below `s3://bucket/prefix/`. Raises, retries and is shared as a `Bucket`."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/") + "/"
        self._bucket = Bucket(self.address)

    def read(self, name: str) -> bytes:
        """The object's content."""
        return self._bucket.read(self._bucket.key + name)

    def write(self, name: str, content: bytes) -> None:
        """Write or replace an object: readers see the previous or the new one, whole."""
        self._bucket.write(self._bucket.key + name, content)

    def sizes(self) -> dict[str, int]:
        """The bytes of each object below, by its name."""
        return {item.key.removeprefix(self._bucket.key): item.size for item in self._bucket.list(self._bucket.key)}


def send_folder(folder: Path, address: str) -> None:
    """Send all files below `folder` to `address`, and the manifest last. Raises as `Bucket` does."""
    target = S3Folder(address)
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}

    def send(name: str) -> str:
        content = files[name].read_bytes()
        target.write(name, content)
        return hashlib.sha256(content).hexdigest()

    names = sorted(files)
    digests = dict(zip(names, side_by_side(send, names), strict=True))
    target.write(MANIFEST, json.dumps({"files": digests}, indent=2).encode())


def receive_folder(address: str, out: Path, command: str) -> Path:
    """Fetch what `send_folder` sent to `address` into the folder `out`, as `atomic_directory` replaces it.

    Raises `JobError` where the manifest or a file is missing, or a file differs from the manifest; else as
    `Bucket` does.
    """
    source = S3Folder(address)
    try:
        digests: dict[str, str] = dict(json.loads(source.read(MANIFEST))["files"])
    except (ValueError, KeyError, TypeError):
        raise JobError(f"{source.address}{MANIFEST} is garbled; send the folder again") from None
    with atomic_directory(out, command) as folder:
        paths = {name: folder / safe_path(name, source.address) for name in digests}

        def fetch(name: str) -> None:
            content = source.read(name)
            if hashlib.sha256(content).hexdigest() != digests[name]:
                raise JobError(f"{source.address}{name} is not what its {MANIFEST} says; send it again")
            paths[name].parent.mkdir(parents=True, exist_ok=True)
            paths[name].write_bytes(content)

        side_by_side(fetch, digests)
    return out


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`function` of each item, PARALLEL at a time, results in order; the first failure cancels the others."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        return list(pool.map(function, items))
