"""The state of the machine while it was measured: clocks, throttling, load and quota, as far as it tells."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbrnet.provenance import hardware

UNREADABLE = "not readable"
GPU_FIGURES = (
    "clocks.sm",
    "clocks.max.sm",
    "power.draw",
    "power.limit",
    "temperature.gpu",
    "clocks_event_reasons.active",
)


def machine_state(root: Path = Path("/")) -> dict[str, Any]:
    """What the system under `root` says now; each figure it does not say is "not readable".

    - `governor`: those of the cores, as a list of different ones;
    - `mhz`: each core's clock;
    - `throttled`: how often the cores have been throttled by heat since the start;
    - `load_average`: over 1, 5 and 15 minutes;
    - `stolen_seconds`: the time that a virtual machine's host gave to others, of all cores since the start;
    - `cpu_quota`: how many cores' time the container may use, or "none";
    - `gpus`: what nvidia-smi says of each.
    """
    figures: dict[str, Callable[[Path], Any]] = {
        "governor": _governor,
        "mhz": _clocks,
        "throttled": _throttled,
        "load_average": _load_average,
        "stolen_seconds": _stolen,
        "cpu_quota": _quota,
    }
    state: dict[str, Any] = {}
    for name, read in figures.items():
        try:
            state[name] = read(root)
        except (OSError, ValueError, IndexError):
            state[name] = UNREADABLE
    return state | {"gpus": _gpus()}


def describe_machine() -> str:
    """The processor, and the GPUs where there are any, in words."""
    return hardware().processors


def _each(root: Path, pattern: str) -> list[str]:
    """The contents of the files that match; `OSError` where there are none."""
    found = [path.read_text().strip() for path in sorted(root.glob(pattern))]
    if not found:
        raise FileNotFoundError(pattern)
    return found


def _governor(root: Path) -> list[str]:
    return sorted(set(_each(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")))


def _clocks(root: Path) -> list[int]:
    try:
        kilohertz = _each(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
        return [int(value) // 1000 for value in kilohertz]
    except OSError:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
        clocks = [round(float(line.partition(":")[2])) for line in lines if line.startswith("cpu MHz")]
        if not clocks:
            raise
        return clocks


def _throttled(root: Path) -> int:
    pattern = "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count"
    return sum(int(value) for value in _each(root, pattern))


def _load_average(root: Path) -> list[float]:
    return [float(value) for value in (root / "proc/loadavg").read_text().split()[:3]]


def _stolen(root: Path) -> float:
    return int((root / "proc/stat").read_text().split()[8]) / 100  # the first line; in hundredths


def _quota(root: Path) -> float | str:
    """Of cgroup v2, else of v1."""
    cgroup = root / "sys/fs/cgroup"
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except OSError:
        quota, period = (_each(cgroup, f"cpu/cpu.cfs_{name}_us")[0] for name in ("quota", "period"))
    return "none" if quota in {"max", "-1"} else int(quota) / int(period)


def _gpus() -> list[dict[str, str]]:
    """Empty where there is no nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={','.join(GPU_FIGURES)}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.split(", ") for line in answer.stdout.splitlines() if line.strip()]
    return [dict(zip(GPU_FIGURES, row, strict=False)) for row in rows]
