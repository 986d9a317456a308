"""Real servers for the tests: MLflow's, on SQLite or on PostgreSQL, with or without authentication."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def mlflow_server(
    root: Path, database: str, words: Sequence[str] = (), environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """The address of an `mlflow server` on `database` that also serves the artifacts, which lie in `root`."""
    port = free_port()
    given = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TRACKING")}
    given |= {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **(environment or {})}
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(root / "artifacts")]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--workers", "2", *words], cwd=root, env=given, stdout=log, stderr=log, start_new_session=True
        )
        try:
            address = f"http://127.0.0.1:{port}"
            deadline = time.monotonic() + 120
            while not _answers(f"{address}/health"):
                assert process.poll() is None, (root / "log").read_text()
                assert time.monotonic() < deadline, (root / "log").read_text()
                time.sleep(0.2)
            yield address
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


class Server:
    """A real `mlflow server` on a port of its own, that can be killed, stopped and started again."""

    def __init__(self, root: Path, database: Path | None = None) -> None:
        self.root, self.port = root, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        if database:  # with its tables made, which saves seconds
            shutil.copyfile(database, root / "mlflow.db")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.root / 'mlflow.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self.root / "artifacts")]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
        with (self.root / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=self.root,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )
        deadline = time.monotonic() + 90
        while True:
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5):
                    return
            except OSError:
                assert self.process.poll() is None, (self.root / "log").read_text()
                assert time.monotonic() < deadline, (self.root / "log").read_text()
                time.sleep(0.2)

    def signal(self, number: signal.Signals) -> None:
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait(30)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


@contextmanager
def postgresql() -> Iterator[str]:
    """A database of a fresh PostgreSQL as a URI; it runs as the user postgres where this is root.

    Its folder is none of pytest's: those are their owner's alone, and every pytest that starts sees to it.
    """
    binaries, port = BINARIES[-1], free_port()
    as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    data = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if as_user:
        shutil.chown(data, "postgres", "postgres")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.STDOUT, "cwd": data}
    subprocess.run(
        [*as_user, str(binaries / "initdb"), "-D", str(data), "-A", "trust", "-U", "mlflow", "--no-sync"],
        check=True,
        **quiet,  # type: ignore[call-overload]
    )
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={data} -c fsync=off"
    control = [*as_user, str(binaries / "pg_ctl"), "-D", str(data), "-w", "-o", options]
    subprocess.run([*control, "start"], check=True, **quiet)  # type: ignore[call-overload]
    try:
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, **quiet)  # type: ignore[call-overload]
        shutil.rmtree(data)
