"""The state of the machine during a measurement: clocks, throttling, load and quota, as far as they are readable."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from dbrnet.provenance import query_gpus
from dbrnet.records import MachineState

UNREADABLE = "not readable"
CORES = "sys/devices/system/cpu/cpu[0-9]*"
GPU_FIGURES = (
    *("clocks.sm", "clocks.max.sm", "power.draw", "power.limit"),
    *("temperature.gpu", "clocks_event_reasons.active"),
)

Figure = TypeVar("Figure")


def machine_state(root: Path = Path("/")) -> MachineState:
    """The current state of the system under `root`; a figure that it does not offer is "not readable"."""
    return MachineState(
        governor=_readable(lambda: sorted(set(_contents(root, f"{CORES}/cpufreq/scaling_governor")))),
        mhz=_readable(lambda: _clocks(root)),
        throttled=_readable(lambda: sum(map(int, _contents(root, f"{CORES}/thermal_throttle/core_throttle_count")))),
        load_average=_readable(lambda: [float(value) for value in (root / "proc/loadavg").read_text().split()[:3]]),
        # The first line is that of all cores, in hundredths of a second.
        stolen_seconds=_readable(lambda: int((root / "proc/stat").read_text().split()[8]) / 100),
        cpu_quota=_readable(lambda: _quota(root / "sys/fs/cgroup")),
        gpus=[dict(zip(GPU_FIGURES, gpu, strict=False)) for gpu in query_gpus(*GPU_FIGURES)],
    )


def _readable(read: Callable[[], Figure]) -> Figure | str:
    try:
        return read()
    except (OSError, ValueError, IndexError):
        return UNREADABLE


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


def _quota(cgroup: Path) -> float | str:
    """The quota of cgroup v2, else of v1."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except OSError:
        quota, period = (_contents(cgroup, f"cpu/cpu.cfs_{name}_us")[0] for name in ("quota", "period"))
    return "none" if quota in {"max", "-1"} else int(quota) / int(period)
