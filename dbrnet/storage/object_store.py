"""A folder in S3: objects read and written by name, and a whole folder sent so that no half of it is trusted.

What is sent ends with MANIFEST, which lists every file's SHA-256. Who receives takes the files that it lists
and those alone, and only if they are what it says: a sender killed in the middle has sent nothing.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from dbrnet.errors import JobError
from dbrnet.files import atomic_directory
from dbrnet.storage.archive import safe_path
from dbrnet.storage.s3 import PARALLEL, connected, explained, listed, patiently

MANIFEST = "manifest.json"

Item = TypeVar("Item")
Result = TypeVar("Result")


class S3Folder:
    """All that lies below one `s3://bucket/prefix/`. Threads may share one; a forked process needs its own.

    A lost connection and a server that fails are waited out (see `patiently`); then, and for what the user
    has to mend, errors are those of `fetch_s3`.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/") + "/"
        self._bucket, self._prefix, self._client, self._server = connected(self.address)

    def read(self, name: str) -> bytes:
        """The object's content, of the length that the server said; `MissingObjectError` if there is none."""

        def get() -> bytes:
            content: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)["Body"].read()
            return content

        return self._asked(get, self.address + name)

    def write(self, name: str, content: bytes) -> None:
        """Write or replace an object: readers see the previous or the new one, whole."""

        def put() -> None:
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=content)

        self._asked(put, self.address + name)

    def sizes(self) -> dict[str, int]:
        """The names of all objects below, and how many bytes each has."""

        def get() -> dict[str, Any]:
            found = listed(self._client, self._bucket, self._prefix)
            return {item["Key"][len(self._prefix) :]: item["Size"] for item in found}

        return self._asked(get, self.address)

    def _asked(self, action: Callable[[], Result], what: str) -> Result:
        with explained(what, self._bucket, self._server):
            return patiently(action, what)


def send_folder(folder: Path, address: str) -> None:
    """Send all files below `folder` to `address`, and the manifest last. Raises as `S3Folder` does."""
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

    Raises `JobError` where the manifest or a file is missing, or a file is not what the manifest says; else
    as `S3Folder` does.
    """
    source = S3Folder(address)
    digests = _manifest(source)
    with atomic_directory(out, command) as folder:
        places = {name: folder / safe_path(name, source.address) for name in digests}

        def fetch(name: str) -> None:
            content = source.read(name)
            if hashlib.sha256(content).hexdigest() != digests[name]:
                raise JobError(f"{source.address}{name} is not what its {MANIFEST} says; send it again")
            places[name].parent.mkdir(parents=True, exist_ok=True)
            places[name].write_bytes(content)

        side_by_side(fetch, digests)
    return out


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """`function` of each of `items`, some at a time, results in their order; the first failure ends it."""
    with ThreadPoolExecutor(PARALLEL) as pool:
        try:
            return list(pool.map(function, items))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _manifest(source: S3Folder) -> dict[str, str]:
    content = source.read(MANIFEST)
    try:
        return dict(json.loads(content)["files"])
    except (ValueError, KeyError, TypeError):
        raise JobError(f"{source.address}{MANIFEST} is garbled; send the folder again") from None
