"""Addresses as they are shown and recorded: without credentials."""

import io
import logging
import re
from typing import TextIO

_ADDRESS = re.compile(
    r"""
    (?<![a-z])
    (?P<scheme> (?P<database> (?:postgres|mysql|mssql)[a-z0-9+]*:// )
              | (?:https?|s3):/{1,2}             # one slash: what a Path makes of it
              | [a-z][a-z0-9+.-]*:// )
    (?P<user> [^\s/?\#]* @                       # user:password@, or a token@
      | (?!\[) [^\s/?\#:@]* :                    # a password with what should have been escaped in it:
        (?(database) | (?! \d* (?: [\s/?\#'"),;:] | $ )))  # what follows the colon is no port
        [^\s@] [^@\n]* @
    )?
    (?P<host> \[ [^]\s]* \] | [^\s/?\#:]* )
    (?P<port> :\d+ )?
    (?P<rest> [^\s/?\#]* )                       # a port that is none
    (?P<path> [^\s?\#]* )
    (?P<route> \#/ [^\s?]* )?                    # a page within a page, as MLflow and Kubeflow have them
    (?P<query> (?: [?\#] (?: [^\s"\\] | \\ (?!") )* )? )  # up to where JSON ends it
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BARE_USER = re.compile(r"(?<![\w/.:@%+-])[\w.%+-]+:[^\s/@:'\"]+@(?!sha256:)(?=[\w\[])")
_BARE_QUERY = re.compile(r"\?[^\s?=&/]+=\S*")
_PUNCTUATION = re.compile(r"[:;,.)}>'\"]*$")


def redact(text: str, *, keep_path: bool = True) -> str:
    """`text`, an address or a message with addresses in it, without their passwords, queries and fragments.

    Scheme, host, port and path stay; without `keep_path`, for a webhook, whose path is its password, the path
    goes too. Of s3:// addresses a fragment stays, since keys may hold a "#". What is no address stays as it
    is, but for a user:password@ and a ?key=value without a scheme, as libraries quote them. Redacting twice
    changes nothing more.
    """

    def shown(match: re.Match[str]) -> str:
        scheme, host, port, rest, path, route, query = (
            match[name] or "" for name in ("scheme", "host", "port", "rest", "path", "route", "query")
        )
        if not keep_path:
            ending = _ending(f"{rest}{path}{route}{query}")
            path, route, query = "/..." if path.strip("/") else "", "", ending
        elif not scheme.lower().startswith("s3:"):
            query = _ending(query or ("" if path or route else rest))
        return f"{scheme}{host}{port}{path}{route}{query}"

    text = _BARE_USER.sub("", _ADDRESS.sub(shown, text))
    return _BARE_QUERY.sub(lambda match: _ending(match[0]), text)


def holds_password(address: str) -> bool:
    """Whether a user, a password or a token stands before the address's host."""
    match = _ADDRESS.match(address)
    return match is not None and bool(match["user"])


class RedactingFormatter(logging.Formatter):
    """What another formatter makes of a log's record, redacted: libraries log addresses as they are."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return redact(self._inner.format(record))


def redact_log(name: str = "") -> None:
    """Let the handlers of the logger `name`, which a library has set up, redact what they write."""
    for handler in logging.getLogger(name).handlers:
        if not isinstance(handler.formatter, RedactingFormatter):
            handler.setFormatter(RedactingFormatter(handler.formatter or logging.Formatter()))


class RedactedOutput(io.TextIOBase):
    """A stream that redacts what is printed to it, line by line, and passes it on to another."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun = stream, ""

    def write(self, text: str) -> int:
        """Take `text`; what is no whole line yet waits."""
        whole, end, begun = (self._begun + text).rpartition("\n")
        self._begun = begun
        for line in f"{whole}{end}".splitlines(keepends=True):
            self._stream.write(redact(line))
        return len(text)

    def close(self) -> None:
        """Pass on what waits; the other stream stays open."""
        self._stream.write(redact(self._begun))
        self._begun = ""
        self._stream.flush()


def _ending(dropped: str) -> str:
    """The punctuation at its end, which is the sentence's."""
    found = _PUNCTUATION.search(dropped)
    return found[0] if found else ""
