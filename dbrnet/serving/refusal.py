"""A request that is not answered as it wished: an HTTP status and one line for the client."""

from collections.abc import Mapping

from fastapi.responses import JSONResponse

from dbrnet.errors import one_line


class Refusal(Exception):  # noqa: N818  (what the service does, not a fault of it)
    """Ends a request with `status` and {"error": message}."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self._headers = headers

    @property
    def response(self) -> JSONResponse:
        """What the client is sent."""
        return JSONResponse({"error": one_line(str(self))}, self.status, self._headers)


def busy(reason: str) -> Refusal:
    """503: come again in a second."""
    return Refusal(503, f"{reason}; send it again in a second", {"Retry-After": "1"})
