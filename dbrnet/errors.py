"""The errors a user can cause, told apart from our own bugs."""

from dbrnet.addresses import redact


class _OneLineError(Exception):
    """Its message is one printable line, also where a file's name holds a newline or a terminal's codes.

    Addresses in it are redacted, whoever put them there: libraries quote them with passwords and signatures.
    """

    def __init__(self, message: str) -> None:
        super().__init__(redact(one_line(message)))


class UserError(_OneLineError):
    """Wrong input: one line that says what is wrong, where, and what to do. The CLI exits with status 2."""


class JobError(_OneLineError):
    """The input is fine but the job failed (a model that diverged, a server away). Exit status 1."""


class UnavailableError(JobError):
    """Something does not answer or is overloaded. `cause` is the message without its remedy."""

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause}; {remedy}" if remedy else cause)
        self.cause = str(JobError(cause))  # redacted, as the message is


class BusyError(JobError):
    """Another process is writing to the same database at this moment."""


def one_line(text: str) -> str:
    """`text` with what does not print, newlines among it, written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def install_hint(extra: str) -> str:
    """How to install what an extra of pyproject.toml brings: this project is on no package index."""
    return f"in the project's folder: pip install -c constraints.txt -e '.[{extra}]'"
