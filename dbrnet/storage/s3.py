"""Fetching a source from S3, or from any server that speaks its protocol: the one door to boto3.

Endpoint, region and credentials come by the environment alone, as boto3 reads it: AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE. No message repeats what a server or boto3 says in
words: their words can hold keys.

A server that is away for a minute or two is waited for; what its user has to mend is told at once.
"""

import errno
import logging
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
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

from dbrnet.errors import JobError, UserError
from dbrnet.progress import Progress
from dbrnet.storage.archive import MAX_BYTES, MAX_MEMBERS, safe_path

log = logging.getLogger(__name__)

PARALLEL = 8  # connections at a time
# Seconds before each new try; a random half is taken off, so that many workers do not come back as one.
PAUSES: tuple[float, ...] = (1, 2, 4, 8, 16, 32, 32, 32)

_CONFIG = Config(
    connect_timeout=10,
    read_timeout=60,
    retries={"mode": "standard", "total_max_attempts": 3},
    max_pool_connections=PARALLEL,
)
_WRONG_CREDENTIALS = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_NO_CREDENTIALS = (NoCredentialsError, PartialCredentialsError)
_SET_CREDENTIALS = "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
_REFUSED = {"AccessDenied", "AllAccessDisabled", "403"}
_BROKEN = (RetriesExceededError, IncompleteReadError, ResponseStreamingError, ConnectionClosedError, ReadTimeoutError)
_BUSY = {"SlowDown", "RequestTimeout", "Throttling", "TooManyRequests"}

Result = TypeVar("Result")


class MissingObjectError(JobError):
    """The object that was asked for by its name is not there."""


def fetch_s3(source: str, target: Path, *, progress: Progress | None = None) -> Path:
    """Fetch `s3://bucket/key` to the file `target`, or all below `s3://bucket/prefix/` to a folder there.

    An address without the last slash is an object if there is one of that name, else a prefix. Every size is
    checked against the server's list. Raises `UserError` where the address, the credentials or the rights are
    wrong, nothing is there, or a key would leave the folder; `JobError` where the server stays away or the
    connection goes on breaking off. After an error `target` may hold some of the files.
    """
    bucket, key, client, server = connected(source)
    with explained(source, bucket, server):
        found = patiently(lambda: _find(client, bucket, key, source), source)
        if len(found) == 1 and found[0].key == key:
            _download(client, bucket, found[0], target, TransferConfig(max_concurrency=PARALLEL))
        else:
            _download_all(client, bucket, found, target, source, progress)
    return target


def s3_revision(source: str) -> list[str]:
    """The names, sizes and ETags of all that `fetch_s3` would fetch. Raises as that does."""
    bucket, key, client, server = connected(source)
    with explained(source, bucket, server):
        found = patiently(lambda: _find(client, bucket, key, source), source)
    return [f"{item.name}\0{item.size}\0{item.etag}" for item in found]


def connected(source: str) -> tuple[str, str, Any, str]:
    """Bucket and key of an address, a client for it, and its server's name without a password."""
    bucket, _, key = source.removeprefix("s3://").partition("/")
    if not bucket or {"@", ":"} & set(bucket):
        raise UserError("an S3 address is s3://BUCKET/PREFIX/; credentials go into the environment")
    client = _connect(source)
    return bucket, key, client, urlsplit(client.meta.endpoint_url).netloc.rpartition("@")[2]


@dataclass(frozen=True)
class _Object:
    key: str
    name: str  # below the prefix
    size: int  # bytes
    etag: str


def _find(client: Any, bucket: str, key: str, source: str) -> list[_Object]:
    """The object `key`, or all objects below it; folders' own empty markers are passed over."""
    if key and not key.endswith("/"):
        first = client.list_objects_v2(Bucket=bucket, Prefix=key, MaxKeys=1).get("Contents", [])
        if first and first[0]["Key"] == key:
            return [_Object(key, key, first[0]["Size"], _etag(first[0]))]
        key += "/"
    found, total = [], 0
    for item in listed(client, bucket, key):
        if item["Key"].endswith("/"):
            continue
        found.append(_Object(item["Key"], item["Key"][len(key) :], item["Size"], _etag(item)))
        total += item["Size"]
        if len(found) > MAX_MEMBERS or total > MAX_BYTES:
            raise UserError(f"{source} holds more than {MAX_MEMBERS} objects or {MAX_BYTES} bytes")
    if not found:
        raise UserError(f"{source}: there is nothing there; check the spelling of the address")
    return found


def _etag(item: dict[str, Any]) -> str:
    """What changes with an object's content; not every server has it."""
    return str(item.get("ETag", item.get("LastModified")))


def listed(client: Any, bucket: str, prefix: str) -> Iterator[dict[str, Any]]:
    """What the server says of each object whose key begins with `prefix`."""
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        yield from page.get("Contents", [])


def _download_all(
    client: Any, bucket: str, found: list[_Object], target: Path, source: str, progress: Progress | None
) -> None:
    """Every object to its place, some at a time; the first that fails ends it."""
    places = {item: target / safe_path(item.name, source) for item in found}
    if len(set(places.values())) < len(places):
        raise UserError(f"{source} holds two objects whose names are one path; rename one")
    one_thread = TransferConfig(use_threads=False)

    def fetch(item: _Object) -> None:
        try:
            places[item].parent.mkdir(parents=True, exist_ok=True)
            _download(client, bucket, item, places[item], one_thread)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise UserError(f"{source}: {item.name} is both an object and a folder; rename one") from None
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise UserError(f"{source}: a name is too long for this system: {item.name}") from None
            raise

    with ThreadPoolExecutor(PARALLEL) as pool:
        done = pool.map(fetch, found)
        for _ in progress(done, len(found), "fetch") if progress else done:
            pass


def _download(client: Any, bucket: str, item: _Object, place: Path, config: TransferConfig) -> None:
    def fetch() -> None:
        with place.open("wb") as file:
            client.download_fileobj(bucket, item.key, file, Config=config)

    patiently(fetch, f"s3://{bucket}/{item.key}")
    if (size := place.stat().st_size) != item.size:
        raise JobError(f"s3://{bucket}/{item.key}: {size} bytes came and {item.size} were listed; run it again")


def _connect(source: str) -> Any:
    try:
        return boto3.session.Session().client("s3", config=_CONFIG)
    except _NO_CREDENTIALS:
        raise UserError(f"{source}: {_SET_CREDENTIALS}") from None
    except (BotoCoreError, ValueError) as error:
        raise UserError(
            f"{source}: wrong S3 settings ({type(error).__name__}); check AWS_ENDPOINT_URL and AWS_PROFILE"
        ) from None


def patiently(action: Callable[[], Result], source: str) -> Result:
    """What `action` returns; it is done again where the connection was lost or the server failed.

    After the last of `PAUSES` what boto3 raised is raised, as is at once what waiting does not mend.
    """
    for pause in PAUSES:
        try:
            return action()
        except (*_BROKEN, UnreachableError, ClientError) as error:
            if isinstance(error, ClientError) and not _may_pass(error):
                raise
            seconds = pause * random.uniform(0.5, 1)  # noqa: S311
            log.info("%s: %s; trying again in %.0f s", source, type(error).__name__, seconds)
            time.sleep(seconds)
    return action()


def _may_pass(error: ClientError) -> bool:
    code, status = _code_and_status(error)
    return status >= 500 or status == 429 or code in _BUSY or code == "500"  # the last for a list cut short


def _code_and_status(error: ClientError) -> tuple[str, int]:
    code = str(error.response.get("Error", {}).get("Code", "?"))
    return code, int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@contextmanager
def explained(source: str, bucket: str, server: str) -> Iterator[None]:
    """Turn what boto3 raises into one line that says what to do."""
    try:
        yield
    except ClientError as error:
        raise _of_answer(error, source, bucket, server) from None
    except _NO_CREDENTIALS:
        raise UserError(f"{source}: {_SET_CREDENTIALS}") from None
    except ParamValidationError:
        raise UserError(f"{source}: {bucket!r} cannot be a bucket's name") from None
    except _BROKEN:
        raise JobError(f"{source}: the connection to {server} broke off; run it again") from None
    except UnreachableError as error:
        raise JobError(f"{source}: {server} cannot be reached ({type(error).__name__})") from None
    except HTTPClientError:  # the request could not be made: mostly a line break in a key
        raise UserError(
            f"{source}: the request cannot be sent; look for blanks and line breaks in AWS_* variables"
        ) from None
    except BotoCoreError as error:
        raise UserError(f"{source}: {type(error).__name__}; check the AWS_* variables") from None


def _of_answer(error: ClientError, source: str, bucket: str, server: str) -> UserError | JobError:
    code, status = _code_and_status(error)
    if code in _EXPIRED:
        return UserError(f"{source}: the credentials have expired ({code}); put new ones into the environment")
    if code in _WRONG_CREDENTIALS:
        return UserError(
            f"{source}: {server} does not accept the credentials ({code}); check AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    if code in _REFUSED:
        return UserError(
            f"{source}: access refused ({code}); the credentials need to list and to read there, and "
            "to write what is sent there"
        )
    if code == "NoSuchKey":
        return MissingObjectError(f"{source} is missing: it was not sent, or not to its end; send it again")
    if code == "NoSuchBucket":
        return UserError(f"{source}: {server} has no bucket {bucket!r}; check its name and AWS_ENDPOINT_URL")
    if _may_pass(error):
        return JobError(f"{source}: {server} failed to answer ({code}); run it again")
    return UserError(f"{source}: {server} answers {status} {code}")
