"""Reading the image of a request, with bounds on its size, its time and the memory of all uploads."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from dbrnet.serving.responses import Refusal, busy

UPLOAD_SECONDS = 20.0  # for the whole body
TOGETHER = 8  # all uploads in memory, arriving or waiting, take at most this many times the limit of one
FORM = "multipart/form-data"
UNKNOWN = "application/octet-stream"


class Uploads:
    """Reads images from requests, each of at most `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = 0

    @asynccontextmanager
    async def image(self, request: Request) -> AsyncIterator[bytes]:
        """Yield the image's file; its bytes count as held in memory until the block ends.

        The body is the file itself, or a form that holds one. Raises `ClientDisconnect` and these refusals: 408
        too slow, 413 too large, 415 not declared as an image, 503 no memory for it now.
        """
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in {FORM, UNKNOWN} and not kind.startswith("image/"):
            raise Refusal(415, f"send one image, with Content-Type image/png or the like, or a form; not {kind!r}")
        self._check(int(request.headers.get("content-length", 0)))  # the server has checked that it is a number
        size = 0

        async def chunks() -> AsyncGenerator[bytes, None]:
            nonlocal size
            async for chunk in request.stream():
                size += len(chunk)
                self._held += len(chunk)
                self._check(size)
                if self._held > TOGETHER * self._max_bytes:
                    raise busy("too many images are being sent")
                yield chunk

        try:
            try:
                async with asyncio.timeout(UPLOAD_SECONDS):
                    if kind == FORM:
                        data = await _file_in_form(request.headers, chunks())
                    else:
                        data = b"".join([chunk async for chunk in chunks()])
            except TimeoutError:
                raise Refusal(
                    408, f"the image was not there in {UPLOAD_SECONDS:.0f} s", {"Connection": "close"}
                ) from None
            yield data
        finally:
            self._held -= size

    def _check(self, size: int) -> None:
        if size > self._max_bytes:
            limit = f"{self._max_bytes / 2**20:g} MiB"
            raise Refusal(413, f"the image is larger than {limit}; cut it into tiles")


class _InMemory(MultiPartParser):
    spool_max_size = 2**62  # by default, files from 1 MiB up go to the disk


async def _file_in_form(headers: Headers, body: AsyncGenerator[bytes, None]) -> bytes:
    try:
        form = await _InMemory(headers, body, max_files=1, max_fields=8).parse()
    except (MultiPartException, KeyError) as error:  # KeyError: no boundary is declared
        reason = error.message if isinstance(error, MultiPartException) else "no boundary"
        raise Refusal(400, f"the form cannot be read: {reason}") from None
    for value in form.values():
        if isinstance(value, UploadFile):
            return await value.read()
    raise Refusal(400, "the form holds no file; send one image")
