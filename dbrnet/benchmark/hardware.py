"""The state of the machine during a measurement: clocks, throttling, load and quota, as far as they are readable."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dbrnet.provenance import hardware, query_gpus

UNREADABLE = "not readable"
CORES = "sys/devices/system/cpu/cpu[0-9]*"
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
    readers: dict[str, Callable[[], Any]] = {
        "governor": lambda: sorted(set(_contents(root, f"{CORES}/cpufreq/scaling_governor"))),
        "mhz": lambda: _clocks(root),
        "throttled": lambda: sum(map(int, _contents(root, f"{CORES}/thermal_throttle/core_throttle_count"))),
        "load_average": lambda: [float(value) for value in (root / "proc/loadavg").read_text().split()[:3]],
        # The first line is that of all cores, in hundredths of a second.
        "stolen_seconds": lambda: int((root / "proc/stat").read_text().split()[8]) / 100,
        "cpu_quota": lambda: _quota(root),
    }
    state: dict[str, Any] = {}
    for name, read in readers.items():
        try:
            state[name] = read()
        except (OSError, ValueError, IndexError):
            state[name] = UNREADABLE
    gpus = [dict(zip(GPU_FIGURES, gpu, strict=False)) for gpu in query_gpus(*GPU_FIGURES)]
    return state | {"gpus": gpus}


def describe_machine() -> str:
    """The processor, and the GPUs where there are any, in words."""
    return hardware().processors


def _contents(root: Path, pattern: str) -> list[str]:
    """The contents of the files that match; `OSError` where none does."""
    contents = [path.read_text().strip() for path in sorted(root.glob(pattern))]
    if not contents:
        raise FileNotFoundError(pattern)
    return contents


def _clocks(root: Path) -> list[int]:
    try:
        return [int(kilohertz) // 1000 for kilohertz in _contents(root, f"{CORES}/cpufreq/scaling_cur_freq")]
    except OSError:
        lines = (root / "proc/cpuinfo").read_text().splitlines()
        clocks = [round(float(line.partition(":")[2])) for line in lines if line.startswith("cpu MHz")]
        if not clocks:
            raise
        return clocks


def _quota(root: Path) -> float | str:
    """The quota of cgroup v2, else of v1."""
    cgroup = root / "sys/fs/cgroup"
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except OSError:
        quota, period = (_contents(cgroup, f"cpu/cpu.cfs_{name}_us")[0] for name in ("quota", "period"))
    return "none" if quota in {"max", "-1"} else int(quota) / int(period)
