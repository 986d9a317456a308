"""Where an artifact came from: the code's revision, the libraries' versions and the machine."""

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("dbrnet", "torch", "onnx", "onnxruntime", "numpy", "opencv-python-headless", "mlflow")
REVISION_VARIABLE = "DBRNET_REVISION"  # set where the code runs without its repository, as in an image


def origin() -> dict[str, Any]:
    """All of it, as every step writes it beside its figures."""
    return {"code_revision": code_revision(), "versions": versions(), "hardware": hardware()}


def code_revision() -> str | None:
    """The commit of this code, `-dirty` after it where tracked files differ; None outside a repository.

    The environment's DBRNET_REVISION goes first: an image is built from a commit it does not hold.
    """
    if given := os.environ.get(REVISION_VARIABLE):
        return given
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # installed elsewhere: a repository around it is not ours
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that decide the numbers, without importing them."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def hardware() -> dict[str, Any]:
    """The machine: CPU model, cores this process may use, memory in GiB, operating system, accelerators."""
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "memory_gib": _memory_gib(),
        "system": f"{platform.system()} {platform.machine()}",
        "gpus": _gpus(),
    }


def available_cores() -> int:
    """The cores this process may use: the threads of a runtime that was not told how many."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def _gpus() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in answer.stdout.splitlines() if line.strip()]
