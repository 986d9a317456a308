"""The state of the machine during a measurement: clocks, throttling, load and quota, as far as they are readable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbrnet.provenance import hardware, query_gpus

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
    """The current state of the system under `root`; a figure that it does not offer is "not readable".

    - `governor`: the different ones of the cores;
    - `mhz`: each core's clock;
    - `throttled`: how often heat has throttled the cores since the start;
    - `load_average`: over 1, 5 and 15 minutes;
    - `stolen_seconds`: the time that a virtual machine's host gave to others, over all cores since the start;
    - `cpu_quota`: the number of cores whose time the container may use, or "none";
    - `gpus`: GPU_FIGURES of each, by nvidia-smi.
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
    gpus = [dict(zip(GPU_FIGURES, gpu, strict=False)) for gpu in query_gpus(*GPU_FIGURES)]
    return state | {"gpus": gpus}


def describe_machine() -> str:
    """The processor, and the GPUs where there are any, in words."""
    return hardware().processors


def _each(root: Path, pattern: str) -> list[str]:
    """The contents of the files that match; `OSError` where none does."""
    contents = [path.read_text().strip() for path in sorted(root.glob(pattern))]
    if not contents:
        raise FileNotFoundError(pattern)
    return contents


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
    """The quota of cgroup v2, else of v1."""
    cgroup = root / "sys/fs/cgroup"
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except OSError:
        quota, period = (_each(cgroup, f"cpu/cpu.cfs_{name}_us")[0] for name in ("quota", "period"))
    return "none" if quota in {"max", "-1"} else int(quota) / int(period)
