"""The share of a training's time that MLflow takes, with a database file and with a real server.

    python benchmarks/tracking.py --images 200 --steps 480 --rounds 3

Trains on the built-in data with params.yaml as it is. `blocked` is the time for which the training itself waits for
tracking: starting the run, handing over each validation (also given per validation and per step), and ending it.
`beside it` is the processor time of the threads that send meanwhile, so at most what they can take from training.
Loading MLflow, and making the tables of a new database file once per project, are counted separately.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dbrnet.steps.train
from dbrnet.config import load_params
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import split_samples
from dbrnet.data.synthetic import generate
from dbrnet.provenance import hardware, versions
from dbrnet.registry.metric_logger import MetricLogger
from dbrnet.registry.store import open_store
from dbrnet.registry.tracking import TrackedRun
from dbrnet.steps.ingest import ingest
from dbrnet.steps.train import train

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
PORT = 5917


@dataclass
class Spent:
    """Seconds of one training."""

    whole: float = 0.0
    blocked: float = 0.0
    beside: float = 0.0
    validations: list[float] = field(default_factory=list)  # handing over each
    steps: int = 0

    def blocking(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """`call`, with its time counted where training waits for it; calls within are in it already."""

        def timed(*args: Any, **rest: Any) -> Any:
            if threading.current_thread() is not threading.main_thread() or self._inside:
                return call(*args, **rest)
            self._inside, began = True, time.perf_counter()
            try:
                return call(*args, **rest)
            finally:
                self.blocked += time.perf_counter() - began
                self._inside = False

        return timed

    def handing_over(self, add: Callable[..., None]) -> Callable[..., None]:
        """`MetricLogger.add`, with each validation's time; at the end the whole history is handed over once more."""
        timed = self.blocking(add)

        def kept(feed: MetricLogger, row: Mapping[str, float]) -> None:
            before = self.blocked
            timed(feed, row)
            if row["step"] > self.steps:
                self.steps = int(row["step"])
                self.validations.append(self.blocked - before)

        return kept

    def running(self, body: Callable[..., None]) -> Callable[..., None]:
        """The thread's `body`, with its processor time counted."""

        def timed(*args: Any) -> None:
            body(*args)
            self.beside += time.thread_time()

        return timed

    _inside = False


def measure(folder: Path, steps: int) -> Spent:
    """Train once in the store that is set, with every call into tracking timed."""
    spent, kept = Spent(), []
    places: list[tuple[Any, str, Callable[..., Any]]] = [
        (dbrnet.steps.train, "_tracked", spent.blocking),
        *((TrackedRun, name, spent.blocking) for name in ("log_params", "set_tags", "log_dataset")),
        *((MetricLogger, name, spent.blocking) for name in ("__init__", "__enter__", "__exit__")),
        (MetricLogger, "add", spent.handing_over),
        *((MetricLogger, name, spent.running) for name in ("_run", "_watch_system")),
    ]
    for owner, name, wrap in places:
        kept.append((owner, name, getattr(owner, name)))
        setattr(owner, name, wrap(getattr(owner, name)))
    began = time.perf_counter()
    params = PARAMS.train.model_copy(update={"steps": steps})
    train(params, folder / "dataset", folder / "split", out=folder / "train")
    spent.whole = time.perf_counter() - began
    for owner, name, original in kept:
        setattr(owner, name, original)
    return spent


def prepare(folder: Path, images: int) -> None:
    """The built-in data, ingested and split by its strips."""
    generate(folder / "source", images=images)
    ingest(PARAMS.ingest.model_copy(update={"source": str(folder / "source")}), out=folder / "dataset")
    data = Dataset.load(folder / "dataset")
    groups = {sample.id: sample.group for sample in data.samples}
    made = split_samples(data, groups, kind="groups", fractions=PARAMS.split.fractions, seed=0)
    (folder / "split").mkdir()
    made.save(folder / "split")


def serve(folder: Path) -> "subprocess.Popen[bytes]":
    """A real `mlflow server`, answering."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(PORT), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    quiet = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(command, cwd=folder, env=quiet, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while server.poll() is None:
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5):
            return server
        time.sleep(0.3)
    raise SystemExit("the MLflow server did not start")


def main() -> None:
    """Print the shares, store by store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--steps", type=int, default=480)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dbrnet-tracking-"))
    os.chdir(folder)
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    prepare(folder, options.images)
    began = time.perf_counter()
    _ = open_store(folder).client
    tables = time.perf_counter() - began
    machine = hardware()
    print(f"{machine.cpu}, {machine.cores} cores; {versions()}")
    print(f"{options.images} images, {options.steps} steps; a new file's tables, once: {tables:.1f} s")
    server = serve(folder)
    spent: dict[str, list[Spent]] = {"file": [], "server": []}
    try:
        for _ in range(options.rounds):  # in turn, so that a busy machine is busy for both
            for store, rounds in spent.items():
                address = f"http://127.0.0.1:{PORT}" if store == "server" else ""
                os.environ["MLFLOW_TRACKING_URI"] = address
                rounds.append(measure(folder, options.steps))
                print(f"{store}, round {len(rounds)}: {rounds[-1].whole:.0f} s", flush=True)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder)
    for store, rounds in spent.items():
        print(f"{store}: training {_of([one.whole for one in rounds], 's')}")
        print(
            f"    blocked      {_of([100 * one.blocked / one.whole for one in rounds], '%')} of it: "
            f"{_of([one.blocked for one in rounds], 's')}"
        )
        validations = [1000 * seconds for one in rounds for seconds in one.validations]
        steps = [1000 * sum(one.validations) / one.steps for one in rounds]
        whole = statistics.median(1000 * one.whole / one.steps for one in rounds)
        print(f"    a validation {_of(validations, 'ms')}")
        print(f"    a step       {_of(steps, 'ms')} of {whole:.0f} ms")
        print(f"    beside it    {_of([100 * one.beside / one.whole for one in rounds], '%')} of it")


def _of(values: list[float], unit: str) -> str:
    return f"{statistics.median(values):.3g} {unit} ({min(values):.3g} to {max(values):.3g})"


if __name__ == "__main__":
    main()
