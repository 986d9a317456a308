"""S3, or any server that speaks its protocol: the only module that uses boto3.

Endpoint, region and credentials come from the environment alone, as boto3 reads it: AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE. No message quotes the server or boto3: their words
can hold keys.

A folder is sent with a manifest as its last object, which lists each file's SHA-256. Its receiver takes the
listed files alone and checks them, so a sender that is killed half-way has sent nothing.
"""

import errno
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ReadTimeoutError,
    ResponseStreamingError,
)
from botocore.exceptions import ConnectionError as UnreachableError
from s3transfer.exceptions import RetriesExceededError

from dbrnet.errors import JobError, UnavailableError, UserError
from dbrnet.files import atomic_directory
from dbrnet.parallel import ordered_map
from dbrnet.progress import Progress
from dbrnet.retries import S3
from dbrnet.storage.archive import MAX_BYTES, MAX_MEMBERS, safe_path

PARALLEL = 8  # connections at a time
MANIFEST = "manifest.json"

# boto3's own retries mend a hiccup. Outages are left to `retries.S3`, since boto3 says nothing while it waits
# and does not retry an object that breaks off while its content is read.
_CONFIG = Config(
    connect_timeout=10,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 3},
    max_pool_connections=PARALLEL,
)
_BROKEN_OFF = (
    RetriesExceededError,
    IncompleteReadError,
    ResponseStreamingError,
    ConnectionClosedError,
    ReadTimeoutError,
)
_OVERLOADED = {"SlowDown", "RequestTimeout", "Throttling", "TooManyRequests", "500"}  # 500: of a list cut short
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError)
_SET_CREDENTIALS = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_REMEDIES = {
    ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"): (
        "the credentials have expired ({code}); put new ones into the environment"
    ),
    ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"): (
        "{server} does not accept the credentials ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    ),
    ("AccessDenied", "AllAccessDisabled", "403"): (
        "access refused ({code}); the credentials need to list and to read there, and to write what is sent there"
    ),
    ("NoSuchBucket",): "{server} has no bucket {bucket!r}; check its name and AWS_ENDPOINT_URL",
}

Result = TypeVar("Result")


@dataclass(frozen=True)
class StoredObject:
    """An object as the server lists it."""

    key: str
    size: int  # bytes
    etag: str  # changes with the content


class S3Folder:
    """The bucket of an address `s3://bucket/key`, and the folder below it. Threads may share one; no fork may.

    An unavailable server is waited for (`retries.S3`). Raises `UserError` where the address, the credentials
    or the rights are wrong, `JobError` where an object is missing or the server stays unavailable.
    """

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/") + "/"
        self.bucket, _, self.key = address.removeprefix("s3://").partition("/")
        self.prefix = self.address.removeprefix("s3://").partition("/")[2]
        if not self.bucket or {"@", ":"} & set(self.bucket):
            raise UserError("an S3 address is s3://BUCKET/PREFIX/; credentials go into the environment")
        try:
            self._client = boto3.session.Session().client("s3", config=_CONFIG)
        except _NO_CREDENTIALS:
            raise UserError(f"{address}: {_SET_CREDENTIALS}") from None
        except (BotoCoreError, ValueError) as error:
            raise UserError(
                f"{address}: wrong S3 settings ({type(error).__name__}); check AWS_ENDPOINT_URL and AWS_PROFILE"
            ) from None
        self._server = urlsplit(self._client.meta.endpoint_url).netloc.rpartition("@")[2]

    def list(self, prefix: str, *, first_only: bool = False) -> list[StoredObject]:
        """The objects whose keys begin with `prefix`, in the order of their keys."""
        limit = {"MaxItems": 1, "PageSize": 1} if first_only else {}

        def read() -> list[StoredObject]:
            paginator = self._client.get_paginator("list_objects_v2")
            return [
                StoredObject(item["Key"], item["Size"], str(item.get("ETag", item.get("LastModified"))))
                for page in paginator.paginate(Bucket=self.bucket, Prefix=prefix, PaginationConfig=limit)
                for item in page.get("Contents", [])  # not every server has ETags
            ]

        return self._call(prefix, read)

    def sizes(self) -> dict[str, int]:
        """The bytes of each object in the folder, by its name."""
        return {item.key.removeprefix(self.prefix): item.size for item in self.list(self.prefix)}

    def read(self, name: str) -> bytes:
        """The content of an object in the folder."""
        key = self.prefix + name

        def get() -> bytes:
            content: bytes = self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            return content

        return self._call(key, get)

    def write(self, name: str, content: bytes) -> None:
        """Write or replace an object in the folder: readers see the previous or the new one, whole."""
        key = self.prefix + name
        self._call(key, lambda: self._client.put_object(Bucket=self.bucket, Key=key, Body=content))

    def download(self, item: StoredObject, path: Path, *, in_parts: bool) -> None:
        """Fetch a listed object to the file `path`; `in_parts` at the same time where it is large."""
        config = TransferConfig(max_concurrency=PARALLEL) if in_parts else TransferConfig(use_threads=False)

        def fetch() -> None:
            with path.open("wb") as file:
                self._client.download_fileobj(self.bucket, item.key, file, Config=config)

        self._call(item.key, fetch)
        if (size := path.stat().st_size) != item.size:
            raise JobError(f"{self._at(item.key)}: {size} bytes came and {item.size} were listed; run it again")

    def _at(self, key: str) -> str:
        return f"s3://{self.bucket}/{key}"

    @S3.retried
    def _call(self, key: str, action: Callable[[], Result]) -> Result:
        try:
            return action()
        except (BotoCoreError, ClientError, RetriesExceededError) as error:
            raise self._explained(error, self._at(key)) from None

    def _explained(self, error: Exception, address: str) -> UserError | JobError:
        """The one line for what boto3 raises; `UnavailableError` where waiting can help."""
        match error:
            case ClientError():
                pass
            case NoCredentialsError() | PartialCredentialsError():
                return UserError(f"{address}: {_SET_CREDENTIALS}")
            case ParamValidationError():
                return UserError(f"{address}: {self.bucket!r} cannot be a bucket's name")
            case _ if isinstance(error, _BROKEN_OFF):
                return UnavailableError(f"{address}: the connection to {self._server} broke off", "run it again")
            case UnreachableError():
                return UnavailableError(f"{address}: {self._server} cannot be reached ({type(error).__name__})")
            case HTTPClientError():  # the request could not be made: mostly a line break in a key
                remedy = "look for blanks and line breaks in AWS_* variables"
                return UserError(f"{address}: the request cannot be sent; {remedy}")
            case _:
                return UserError(f"{address}: {type(error).__name__}; check the AWS_* variables")
        code = str(error.response.get("Error", {}).get("Code", "?"))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        for codes, remedy in _REMEDIES.items():
            if code in codes:
                return UserError(f"{address}: " + remedy.format(code=code, server=self._server, bucket=self.bucket))
        if code == "NoSuchKey":
            return JobError(f"{address} is missing: it was not sent, or not to its end; send it again")
        if status >= 500 or status == 429 or code in _OVERLOADED:
            return UnavailableError(f"{address}: {self._server} failed to answer ({code})", "run it again")
        return UserError(f"{address}: {self._server} answers {status} {code}")


def fetch_s3(source: str, target: Path, *, progress: Progress | None = None) -> Path:
    """Fetch `s3://bucket/key` to the file `target`, or all below `s3://bucket/prefix/` to a folder there.

    An address without a final slash is an object if there is one of that name, else a prefix. Every size is
    checked against the server's list. Raises as `S3Folder` does, and `UserError` where nothing is there or a key
    would leave the folder. After an error `target` may hold some of the files.
    """
    bucket = S3Folder(source)
    prefix, objects = _find(bucket, source)
    if len(objects) == 1 and objects[0].key == prefix:
        bucket.download(objects[0], target, in_parts=True)
        return target
    paths = {item: target / safe_path(item.key.removeprefix(prefix), source) for item in objects}
    if len(set(paths.values())) < len(paths):
        raise UserError(f"{source} holds two objects whose names are one path; rename one")

    def fetch(item: StoredObject) -> None:
        name = item.key.removeprefix(prefix)
        try:
            paths[item].parent.mkdir(parents=True, exist_ok=True)
            bucket.download(item, paths[item], in_parts=False)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise UserError(f"{source}: {name} is both an object and a folder; rename one") from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise UserError(f"{source}: a name is too long for this system: {name}") from None
            raise

    done = ordered_map(fetch, objects, PARALLEL)
    for _ in progress(done, len(objects), "fetch") if progress else done:
        pass
    return target


def s3_revision(source: str) -> list[str]:
    """The names, sizes and ETags of all that `fetch_s3` would fetch. Raises as that does."""
    prefix, objects = _find(S3Folder(source), source)
    return [f"{item.key.removeprefix(prefix) or item.key}\0{item.size}\0{item.etag}" for item in objects]


def _find(bucket: S3Folder, source: str) -> tuple[str, list[StoredObject]]:
    """The source's prefix and the objects below it, or its key and the one object of that key."""
    key = bucket.key
    if key and not key.endswith("/"):
        if (first := bucket.list(key, first_only=True)) and first[0].key == key:
            return key, first
        key += "/"
    objects = [item for item in bucket.list(key) if not item.key.endswith("/")]  # consoles' markers of folders
    if len(objects) > MAX_MEMBERS or sum(item.size for item in objects) > MAX_BYTES:
        raise UserError(f"{source} holds more than {MAX_MEMBERS} objects or {MAX_BYTES} bytes")
    if not objects:
        raise UserError(f"{source}: there is nothing there; check the spelling of the address")
    return key, objects


def send_folder(folder: Path, address: str) -> None:
    """Send all files below `folder` to `address`, and the manifest last. Raises as `S3Folder` does."""
    target = S3Folder(address)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def send(name: str) -> str:
        content = (folder / name).read_bytes()
        target.write(name, content)
        return hashlib.sha256(content).hexdigest()

    digests = dict(zip(names, ordered_map(send, names, PARALLEL), strict=True))
    target.write(MANIFEST, json.dumps({"files": digests}, indent=2).encode())


def receive_folder(address: str, out: Path, command: str) -> Path:
    """Fetch what `send_folder` sent to `address` into the folder `out`, as `atomic_directory` replaces it.

    Raises `JobError` where the manifest or a file is missing, or a file differs from the manifest; else as
    `S3Folder` does.
    """
    source = S3Folder(address)
    try:
        digests: dict[str, str] = dict(json.loads(source.read(MANIFEST))["files"])
    except (ValueError, KeyError, TypeError):
        raise JobError(f"{source.address}{MANIFEST} is garbled; send the folder again") from None
    with atomic_directory(out, command) as folder:
        paths = {name: folder / safe_path(name, source.address) for name in digests}
        for name, content in zip(digests, ordered_map(source.read, digests, PARALLEL), strict=True):
            if hashlib.sha256(content).hexdigest() != digests[name]:
                raise JobError(f"{source.address}{name} is not what its {MANIFEST} says; send it again")
            paths[name].parent.mkdir(parents=True, exist_ok=True)
            paths[name].write_bytes(content)
    return out
