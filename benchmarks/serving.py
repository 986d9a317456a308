"""The share of the bare runtime's speed that `dbrnet serve` keeps, and its behaviour under overload.

    python benchmarks/serving.py --model model.onnx --images folder [--clients 16] [--seconds 60] [--rounds 3]

On the same images, in turns within each round, each in a process of its own:

    predict alone   the runtime, images decoded before
    whole chain     decode, predict, find the defects, encode, one after the other
    service         the whole chain through `dbrnet serve`, with requests of all clients at the same time

Prints images per second of wall time, and milliseconds of CPU time per image. Other work on the machine affects only
the first, so on a busy machine the second is the one to compare. The clients are threads of one process on kept
connections; their own CPU time is printed too, since they share the machine. Then `--overload` clients send requests
without pause to a service with the default queue: every status must be 200 or 503 with Retry-After, and queue and
memory must stay bounded.
"""

import argparse
import http.client
import multiprocessing
import re
import resource
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from dbrnet.inference.images import decode_image
from dbrnet.inference.runtimes import open_model
from dbrnet.provenance import hardware
from dbrnet.serving.responses import Timing, as_json

IMAGES = 64  # different ones, in turn

Taken = tuple[int, float, float]  # images, and seconds of wall time and of CPU time for them
Result = TypeVar("Result")


@dataclass
class Load:
    """The results of the clients."""

    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)  # by status; a broken connection by its error
    latencies: list[float] = field(default_factory=list)  # of those answered 200
    client_cpu: float = 0.0  # seconds

    def add(self, other: "Load") -> None:
        """Add the results of `other`."""
        self.seconds += other.seconds
        self.statuses += other.statuses
        self.latencies += other.latencies
        self.client_cpu += other.client_cpu

    @property
    def rate(self) -> float:
        """Images answered a second."""
        return self.statuses["200"] / self.seconds


def client(port: int, files: list[bytes], start: int, end: float, load: Load, lock: threading.Lock) -> None:
    """Ask for one image after the other on one connection until `end`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    number = start
    while time.perf_counter() < end:
        number += 1
        began = time.perf_counter()
        try:
            connection.request("POST", "/predict", files[number % len(files)], {"Content-Type": "image/jpeg"})
            response = connection.getresponse()
            response.read()
            status = str(response.status)
            if response.status == 503 and not response.headers["Retry-After"]:
                status = "503 without Retry-After"
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            status = type(error).__name__
        with lock:
            load.statuses[status] += 1
            if status == "200":
                load.latencies.append(time.perf_counter() - began)


def ask(port: int, files: list[bytes], clients: int, seconds: float) -> Load:
    """All clients at once, in this process."""
    load, lock, began = Load(), threading.Lock(), time.perf_counter()
    threads = [
        threading.Thread(target=client, args=(port, files, 7 * n, began + seconds, load, lock)) for n in range(clients)
    ]
    cpu = cpu_seconds()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.seconds, load.client_cpu = time.perf_counter() - began, cpu_seconds() - cpu
    return load


def bare(
    model_path: Path, runtime: str | None, threads: int, files: list[bytes], seconds: float
) -> tuple[Taken, Taken]:
    """Images and CPU seconds, first of predicting alone and then of the whole chain."""
    model = open_model(model_path, runtime, threads or None)
    decoded = [decode_image(data, "image") for data in files]
    for image in decoded[:3]:
        model.predict(image[None])

    def predict(number: int) -> None:
        model.predict(decoded[number][None])

    def whole(number: int) -> None:
        image = decode_image(files[number], "image")
        as_json(model.classes, model.predict(image[None]), Timing(0, 0))

    def measure(work: Callable[[int], None]) -> Taken:
        began, cpu, count = time.perf_counter(), cpu_seconds(), 0
        while time.perf_counter() < began + seconds:
            work(count % len(files))
            count += 1
        return count, time.perf_counter() - began, cpu_seconds() - cpu

    return measure(predict), measure(whole)


def cpu_seconds() -> float:
    """Of this process, on all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def in_child(work: Callable[..., Result], *arguments: object) -> Result:
    """The result of `work`, run in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(work, *arguments).result()


@contextmanager
def service(options: argparse.Namespace) -> Iterator[int]:
    """A running `dbrnet serve`: its port."""
    command = [sys.executable, "-m", "dbrnet", "serve", "--model", str(options.model), "--port", "0"]
    command += ["--threads", str(options.threads)]
    command += ["--runtime", options.runtime] if options.runtime else []
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    try:
        line = process.stderr.readline()
        found = re.search(r":(\d+)$", line.strip())
        if found is None:
            raise SystemExit(line + process.stderr.read())
        yield int(found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def gauge(port: int, name: str) -> float:
    """One of the service's own metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    found = re.search(rf"^{name} (\S+)$", text, re.MULTILINE)
    assert found, name
    return float(found[1])


def compare(options: argparse.Namespace, files: list[bytes]) -> None:
    """The bare runtime against the service."""
    bare_seconds, share = max(2.0, options.seconds / options.rounds / 4), options.seconds / options.rounds
    bares: tuple[list[Taken], list[Taken]] = [], []
    load, server_cpu = Load(), 0.0
    with service(options) as port:
        for _ in range(options.rounds):
            measured = in_child(bare, options.model, options.runtime, options.threads, files, bare_seconds)
            for found, one in zip(bares, measured, strict=True):
                found.append(one)
            before = gauge(port, "process_cpu_seconds_total")
            load.add(in_child(ask, port, files, options.clients, share))
            server_cpu += gauge(port, "process_cpu_seconds_total") - before
    print(f"{'':16}{'images/s':>12}{'CPU ms each':>14}")
    for name, rows in zip(("predict alone", "whole chain"), bares, strict=True):
        count, wall, cpu = (sum(column) for column in zip(*rows, strict=True))
        print(f"{name:16}{count / wall:12.1f}{1e3 * cpu / count:14.1f}")
    answered = load.statuses["200"]
    print(f"{'service':16}{load.rate:12.1f}{1e3 * server_cpu / answered:14.1f}")
    cuts = statistics.quantiles(load.latencies, n=100)
    failed = load.statuses.total() - answered
    print(
        f"{options.clients} clients for {load.seconds:.0f} s: {answered} answered, {failed} failed"
        f"{' ' + str(dict(load.statuses)) if failed else ''}; "
        f"p50 {1e3 * cuts[49]:.0f} ms, p99 {1e3 * cuts[98]:.0f} ms; "
        f"the clients' own CPU {1e3 * load.client_cpu / load.statuses.total():.2f} ms each, "
        f"{100 * load.client_cpu / load.seconds:.0f} % of a core"
    )


def overload(options: argparse.Namespace, files: list[bytes]) -> None:
    """More clients than places, none of which waits."""
    with service(options) as port:
        in_child(ask, port, files, options.clients, 3.0)
        before = gauge(port, "process_resident_memory_bytes") / 2**20
        longest, memory = 0.0, before
        stop = threading.Event()

        def watch() -> None:
            nonlocal longest, memory
            while not stop.wait(0.2):
                longest = max(longest, gauge(port, "dbrnet_queue_length"))
                memory = max(memory, gauge(port, "process_resident_memory_bytes") / 2**20)

        watcher = threading.Thread(target=watch)
        watcher.start()
        load = in_child(ask, port, files, options.overload, options.seconds / 3)
        stop.set()
        watcher.join()
    print(
        f"{options.overload} clients for {load.seconds:.0f} s: {dict(load.statuses)}, "
        f"{load.rate:.1f} images/s; "
        f"longest queue {longest:.0f}, memory {before:.0f} MiB before and at most {memory:.0f} MiB"
    )


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True, help="a folder of images")
    parser.add_argument("--runtime")
    parser.add_argument("--threads", type=int, default=0, help="of the model; 0 for all")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--overload", type=int, default=96, help="clients at a time in the second part")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    machine = hardware()
    files = [path.read_bytes() for path in sorted(options.images.iterdir())[:IMAGES] if path.is_file()]
    print(f"{machine.cpu}, {machine.cores} cores; {len(files)} images from {options.images.name}")
    compare(options, files)
    overload(options, files)


if __name__ == "__main__":
    main()
