"""The MLflow store: a server, or a database file beside the project. Each failure is one line."""

import logging
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dbrnet.addresses import redact, redact_log
from dbrnet.errors import BusyError, JobError, UnavailableError, UserError
from dbrnet.retries import DATABASE, MLFLOW

_SERVERS = ("http://", "https://")
_DATABASES = ("sqlite:", "postgresql", "mysql", "mssql")
_BUSY = re.compile(  # what a database says while another process writes
    r"locked|unique constraint|duplicate key|integrity ?error|could not serialize|deadlock|stale ?data", re.I
)

# For functions that may be repeated without harm: the first waits for a store that is away, the second while
# another process writes the same rows.
retry_while_unavailable, repeatable = MLFLOW.retried, DATABASE.retried

# An unavailable server is reported in seconds, no progress bars are drawn, and a training's machine is measured.
# The user's own settings take precedence.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING": "true",
}


class Store:
    """Holds runs and model versions: an MLflow server, or a database with a folder for artifacts."""

    def __init__(self, uri: str, artifacts: Path) -> None:
        self.uri = uri
        self.artifacts = artifacts.absolute()

    @property
    def is_server(self) -> bool:
        """Whether this is an MLflow server, which then chooses the place of artifacts."""
        return self.uri.startswith(_SERVERS)

    @property
    def is_begun(self) -> bool:
        """Whether the store exists; only a SQLite file is created by its first use."""
        return not self.uri.startswith("sqlite:///") or self._sqlite.exists()

    @property
    def _sqlite(self) -> Path:
        return Path(unquote(self.uri.removeprefix("sqlite:///").partition("?")[0]))

    @property
    def artifact_location(self) -> str | None:
        """Where a new experiment keeps its artifacts; None: the server chooses."""
        return None if self.is_server else self.artifacts.as_uri()

    def __str__(self) -> str:
        return redact(self.uri)

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client; the first use of a new SQLite file creates its tables (about 3 s).

        They are made in another file, which then moves: MLflow cannot repair half a schema. A file that cannot be
        written fails at once, where SQLAlchemy would retry for minutes.
        """
        for logger in ("mlflow.store.db.utils", "alembic"):
            logging.getLogger(logger).setLevel(logging.WARNING)
        logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # that our image has no pip
        if self.uri.startswith("sqlite:///"):
            path = self._sqlite
            fresh = path.with_name(f".{path.name}.{os.getpid()}.partial")
            try:
                with closing(sqlite3.connect(path if path.exists() else fresh, timeout=30)) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                if not path.exists():
                    MlflowClient(f"sqlite:///{fresh}", f"sqlite:///{fresh}")
                    with suppress(FileExistsError):  # another process was quicker
                        os.link(fresh, path)
            except sqlite3.Error as error:
                raise self._failure("cannot be written", str(error)) from None
            finally:
                fresh.unlink(missing_ok=True)
        return MlflowClient(self.uri, self.uri)

    @contextmanager
    def client_session(self) -> Iterator[MlflowClient]:
        """Yield the client; a failure of the store inside the block becomes a one-line `JobError`."""
        try:
            yield self.client
        except MlflowException as error:
            message = redact(error.message)
            if re.search(r"failed with (timeout )?exception", message):
                raise self._away() from None
            if "error code 401" in message:
                raise JobError(
                    f"the MLflow store {self} does not accept the credentials; renew "
                    "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
                ) from None
            if error.error_code == "PERMISSION_DENIED" or "error code 403" in message:
                who = os.environ.get("MLFLOW_TRACKING_USERNAME", "this user")
                cause = f"{who} may not do this in the MLflow store {self}; ask the MLflow administrator"
                raise JobError(cause) from None
            raise self._failure("refused", message) from None
        except ConnectionError:
            raise self._away() from None
        except OSError as error:
            raise self._failure("failed", redact(str(error))) from None

    def _failure(self, what: str, detail: str) -> JobError:
        kind = BusyError if _BUSY.search(detail) else JobError
        return kind(f"the MLflow store {self} {what}: {' '.join(detail.split())[:500]}")

    def _away(self) -> UnavailableError:
        return UnavailableError(
            f"the MLflow store {self} cannot be reached",
            "start its server, or correct MLFLOW_TRACKING_URI, or unset it to use a local file",
        )


def open_store(root: Path) -> Store:
    """The store MLFLOW_TRACKING_URI names, else `<root>/mlflow.db` with artifacts in `<root>/mlartifacts`.

    Nothing is contacted or created yet. Raises `UserError` for an address of an unknown kind.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    redact_log("mlflow")
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # with the password that is in it
    root = root.absolute()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}"
    if not uri.startswith((*_SERVERS, *_DATABASES)):
        raise UserError(
            f"MLFLOW_TRACKING_URI is {uri!r}; "
            "it must be an http(s):// address of an MLflow server or a database such as sqlite:///mlflow.db"
        )
    return Store(uri, root / "mlartifacts")
