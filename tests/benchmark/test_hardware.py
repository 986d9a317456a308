from pathlib import Path

import pytest

from dbrnet.benchmark import hardware
from dbrnet.benchmark.hardware import UNREADABLE, machine_state
from dbrnet.records import MachineState

CPU = "sys/devices/system/cpu"


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))


def write(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)


def test_the_systems_figures_are_read(tmp_path: Path) -> None:
    files = {
        "proc/loadavg": "0.50 1.25 2.00 1/100 4242\n",
        "proc/stat": "cpu  10 20 30 40 50 60 70 1234 0 0\ncpu0 1\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
    }
    for core, clock in ((0, "2600000"), (1, "3100000")):
        files |= {
            f"{CPU}/cpu{core}/cpufreq/scaling_governor": "powersave\n",
            f"{CPU}/cpu{core}/cpufreq/scaling_cur_freq": clock,
            f"{CPU}/cpu{core}/thermal_throttle/core_throttle_count": "7\n",
        }
    write(tmp_path, files)
    assert machine_state(tmp_path) == MachineState(
        governor=["powersave"],
        mhz=[2600, 3100],
        throttled=14,
        load_average=[0.5, 1.25, 2.0],
        stolen_seconds=12.34,
        cpu_quota=1.5,
        gpus=[],
    )


def test_missing_figures_are_not_readable(tmp_path: Path) -> None:
    state = machine_state(tmp_path).model_dump()
    assert state.pop("gpus") == []
    assert set(state.values()) == {UNREADABLE}
    write(tmp_path, {"proc/loadavg": "garbage", "proc/cpuinfo": "model name: x\n"})
    assert machine_state(tmp_path).load_average == UNREADABLE
    assert machine_state(tmp_path).mhz == UNREADABLE


def test_older_places_of_the_figures_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "proc/cpuinfo": "processor: 0\ncpu MHz\t\t: 2596.146\nprocessor: 1\ncpu MHz\t\t: 1200.0\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "50000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
    )
    state = machine_state(tmp_path)
    assert (state.mhz, state.cpu_quota) == ([2596, 1200], 0.5)
    write(tmp_path, {"sys/fs/cgroup/cpu.max": "max 100000"})
    assert machine_state(tmp_path).cpu_quota == "none"


def test_a_gpus_clocks_and_power_are_read(tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '1980 MHz, 1980 MHz, 120.5 W, 700.00 W, 41, 0x0'\n")
    tool.chmod(0o755)
    (gpu,) = machine_state(tmp_path).gpus
    assert tuple(gpu) == hardware.GPU_FIGURES
    assert gpu["clocks.sm"] == "1980 MHz"
    assert gpu["power.draw"] == "120.5 W"
