"""Images per second of a training, compared with the loop of the network's authors.

    python benchmarks/training.py --size 200x200 --batch 8 --threads 1 --out speed

Measures in one run, in blocks that take turns, each in a process of its own, since the allocator is,

    released               the released code's form: its network (flow "released", process "depthwise"), float32,
                           channels first, OHEM's cross entropy by sorting on both heads, PyTorch's SGD
    released, memory kept  that in a process that keeps the memory it frees
    fp32                   an iteration of this project with the section train of params.yaml, `amp: false`
    default                that section as it is
    compiled, graphed      on a GPU: the same through torch.compile, without and with CUDA graphs (`compile: true`)

on one batch of noise in memory: its content does not affect the speed, and loading is left out. It prints a table in
Markdown: images a second (median of the blocks, and from which to which), how many times as fast as the released loop
with a 95 % interval from the paired blocks, and the least time that the arithmetic or the memory traffic could take on
this machine, as a share of the measured time. What the time goes to follows from a profile. `--out DIR` keeps it all as
training.json.
"""

import argparse
import multiprocessing
import time
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any, cast

import torch
from pydantic import TypeAdapter
from torch.utils.flop_counter import FlopCounterMode
from training_loops import (  # type: ignore[import-not-found]  # beside this script
    FP32,
    KEPT,
    RELEASED,
    VARIANTS,
    Block,
    Iterate,
    Size,
    new_step,
    noise,
    our_loop,
    released_loop,
    run_block,
)

from dbrnet.benchmark.load_generator import times_as_fast
from dbrnet.benchmark.measurement import table
from dbrnet.benchmark.roofline import BYTES, Peaks, count_work, higher, measure_peaks
from dbrnet.errors import UserError
from dbrnet.files import write_json
from dbrnet.provenance import available_cores, collect_provenance, hardware
from dbrnet.records import Estimate, PeakFacts
from dbrnet.training.distributed import keep_memory
from dbrnet.training.step import computes_in_bfloat16

WARM_UP = 3  # iterations
START_SECONDS = 600.0  # for all variants to be ready: compiling may take minutes
# A map is written once and read once forward, and backward read again, its gradient written and read.
PASSES = 5
GROUPS = {  # what a profile's operations belong to, by a part of their names
    "convolutions": ("conv", "gemm", "cutlass", "cudnn", "sm90"),
    "batch norms": ("batch_norm", "bn_"),
    "optimizer and averages": ("sgd", "lerp", "multi_tensor"),
}


@dataclass(frozen=True)
class Speed:
    """One variant's figures."""

    images_per_second: float
    slowest: float
    fastest: float  # of the blocks, images a second
    times_as_fast: Estimate | None  # as the released loop
    times_as_fast_cpu: Estimate | None  # the same by the processes' CPU time
    roofline_share: float | None
    least_seconds: float | None  # an iteration
    bound: str  # by which of the two
    shares: dict[str, float]  # of the profiled time, by kind of operation
    busy: float | None  # share of the time in which the GPU computed
    peak: PeakFacts | None


def serve(connection: Connection, variant: str, size: Size, batch: int, threads: int) -> None:
    """Run in a process of its own: blocks of as many iterations as asked for, or a profile of them (negative)."""
    torch.set_num_threads(threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if variant != RELEASED:
        keep_memory()
    try:
        loop = (
            released_loop(size, batch, device)
            if variant in (RELEASED, KEPT)
            else our_loop(variant, size, batch, device)
        )
        for _ in range(WARM_UP):
            loop()
        connection.send("ready")
        while True:
            count = connection.recv()
            connection.send(run_block(loop, count, device) if count > 0 else profile(loop, -count, device))
    except EOFError:
        return
    except Exception as error:  # no variant may stop the others
        connection.send(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")


def profile(loop: Iterate, count: int, device: torch.device) -> tuple[dict[str, float], float | None]:
    """The shares of the time by kind of operation, and the share in which a GPU computed."""
    cuda = device.type == "cuda"
    kinds = [torch.profiler.ProfilerActivity.CPU, *([torch.profiler.ProfilerActivity.CUDA] if cuda else [])]
    with torch.profiler.profile(activities=kinds) as recorded:
        block = run_block(loop, count, device)
    spent: dict[str, float] = {}
    for event in recorded.key_averages():
        micros = event.self_device_time_total if cuda else event.self_cpu_time_total
        name = event.key.lower()
        group = next(
            (kind for kind, parts in GROUPS.items() if any(part in name for part in parts)), "other operations"
        )
        spent[group] = spent.get(group, 0.0) + micros
    total = sum(spent.values()) or 1.0
    return {kind: micros / total for kind, micros in spent.items()}, total / 1e6 / block.seconds if cuda else None


class Worker:
    """A variant's process."""

    def __init__(self, variant: str, size: Size, batch: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, variant, size, batch, threads), daemon=True)
        self.process.start()
        theirs.close()

    def ask(self, count: int | None, deadline: float) -> Any:
        """Its answer; raises `UserError` where it failed or gives none before the `deadline`."""
        try:
            if count is not None:
                self.connection.send(count)
            if not self.connection.poll(max(deadline - time.monotonic(), 0.1)):
                raise UserError("not finished in the time allowed")
            answer = self.connection.recv()
        except (EOFError, OSError):
            raise UserError("its process ended") from None
        if isinstance(answer, str) and answer != "ready":
            raise UserError(answer)
        return answer

    def close(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.kill()
        self.process.join()


def measure_training(
    size: Size,
    batch: int,
    threads: int,
    *,
    rounds: int,
    seconds: float,
    start_seconds: float = START_SECONDS,
    variants: tuple[str, ...],
) -> tuple[dict[str, Speed], dict[str, str]]:
    """The speed of each variant, and why others have none.

    Takes about `seconds`, at most thrice that, once all are ready, which takes `start_seconds` at most.
    """
    peaks = measure_peaks(kinds_here(), threads)
    deadline = time.monotonic() + start_seconds
    workers = {variant: Worker(variant, size, batch, threads) for variant in variants}
    blocks: dict[str, list[Block]] = {}
    profiles: dict[str, tuple[dict[str, float], float | None]] = {}
    failed: dict[str, str] = {}

    def attempt(variant: str, count: int | None) -> Any:
        try:
            return workers[variant].ask(count, deadline)
        except UserError as error:
            failed[variant] = str(error)
            workers.pop(variant).close()
            return None

    try:
        for variant in variants:  # together: compiling takes long
            attempt(variant, None)
        deadline = time.monotonic() + 3 * seconds
        first = {variant: attempt(variant, 1) for variant in list(workers)}
        share = seconds / max(rounds * len(workers), 1)
        counts = {variant: max(1, round(share / block.seconds)) for variant, block in first.items() if block}
        for _ in range(rounds):
            for variant in [each for each in counts if each in workers]:
                if block := attempt(variant, counts[variant]):
                    blocks.setdefault(variant, []).append(block)
            if time.monotonic() > deadline:
                break
        for variant in list(workers):
            if profiled := attempt(variant, -2):
                profiles[variant] = profiled
    finally:
        for worker in workers.values():
            worker.close()
    peaks = higher(peaks, measure_peaks(kinds_here(), threads))
    return summarise(blocks, profiles, size, batch, peaks), failed


def kinds_here() -> list[tuple[str, str]]:
    """The device, with float32 and with the precision that trainings use on it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return [(device, "fp32"), (device, "bf16" if computes_in_bfloat16(torch.device(device)) else "fp32")]


def summarise(
    blocks: dict[str, list[Block]],
    profiles: dict[str, tuple[dict[str, float], float | None]],
    size: Size,
    batch: int,
    peaks: Peaks,
) -> dict[str, Speed]:
    """The figures of each variant that ran all rounds."""
    device, half = kinds_here()[1]
    found: dict[str, Speed] = {}
    rounds = max(map(len, blocks.values()), default=0)
    for variant, own in blocks.items():
        if len(own) < rounds:
            continue
        rates = [batch * block.iterations / block.seconds for block in own]
        speed = Speed(
            median(rates), min(rates), max(rates), None, None, None, None, "", *profiles.get(variant, ({}, None)), None
        )
        precision = "fp32" if variant in (RELEASED, KEPT, FP32) else half
        if isinstance(peak := peaks[device, precision], PeakFacts):
            arithmetic, memory = least_seconds(size, batch, precision, peak)
            least = max(arithmetic, memory)
            share, bound = least * speed.images_per_second / batch, "arithmetic" if arithmetic > memory else "memory"
            speed = replace(speed, roofline_share=share, least_seconds=least, bound=bound, peak=peak)
        if variant != RELEASED and len(blocks.get(RELEASED, ())) == rounds:
            ratios = [
                times_as_fast(
                    *([getattr(block, clock) / block.iterations for block in each] for each in (own, blocks[RELEASED]))
                )
                for clock in ("seconds", "cpu_seconds")
            ]
            speed = replace(speed, times_as_fast=ratios[0], times_as_fast_cpu=ratios[1])
        found[variant] = speed
    return found


def least_seconds(size: Size, batch: int, precision: str, peak: PeakFacts) -> tuple[float, float]:
    """The least time of an iteration by its arithmetic, forward and backward, and by its memory traffic."""
    step = new_step(FP32, size, 1, torch.device("cpu"))
    with FlopCounterMode(display=False) as counted:
        step.losses(*noise(size, 1))[0].backward()
    macs = batch * counted.get_total_flops() / 2
    moved = PASSES * BYTES[precision] * batch * count_work(step.model, *size).activations
    return macs / peak.macs, moved / peak.bytes


def plain(found: dict[str, Speed]) -> dict[str, Any]:
    """The figures as JSON takes them."""
    return {variant: TypeAdapter(Speed).dump_python(speed, mode="json") for variant, speed in found.items()}


def report(found: dict[str, Speed]) -> str:
    """The table."""
    rows = []
    for variant, speed in found.items():
        shares = sorted(speed.shares.items(), key=lambda item: -item[1])
        busy = [] if speed.busy is None else [f"GPU busy {speed.busy:.0%}"]
        ratios = (speed.times_as_fast, speed.times_as_fast_cpu)
        rows.append(
            {
                "loop": variant,
                "images/s": f"{speed.images_per_second:.1f} ({speed.slowest:.1f} to {speed.fastest:.1f})",
                "times as fast": str(ratios[0]) if ratios[0] else "1",
                "by CPU time": str(ratios[1]) if ratios[1] else "1",
                "roofline": "" if speed.roofline_share is None else f"{speed.roofline_share:.0%} ({speed.bound})",
                "time goes to": ", ".join([*busy, *(f"{kind} {share:.0%}" for kind, share in shares)]),
            }
        )
    return table(rows) if rows else "nothing was measured"


def variants_here() -> tuple[str, ...]:
    """Those that this machine has a use for."""
    return VARIANTS if torch.cuda.is_available() else VARIANTS[:4]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="200x200")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=120.0, help="for all variants together")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    size = cast("Size", tuple(int(side) for side in given.size.split("x")))
    found, failed = measure_training(
        size, given.batch, given.threads, rounds=given.rounds, seconds=given.seconds, variants=variants_here()
    )
    source, capability = collect_provenance(), torch.backends.cpu.get_cpu_capability()
    print(f"{hardware().processors}, {given.threads} threads, {capability}; {source.libraries}\n")
    print(f"{given.size}, batch {given.batch}\n\n{report(found)}\n")
    print("".join(f"left out: {variant}: {reason}\n" for variant, reason in failed.items()))
    if given.out:
        content = {"size": size, "batch": given.batch, "threads": given.threads, "instructions": capability}
        content |= {"loops": plain(found), "failed": failed, "provenance": source.model_dump(mode="json")}
        write_json(given.out / "training.json", content)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
