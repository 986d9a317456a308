"""What Kubeflow's local runner costs beside the steps themselves: the demo by the command line, and by it.

    python benchmarks/kubeflow.py [--steps 480] [--rounds 1]

Both run in folders of their own, in turns; each round prints the steps' seconds, Kubeflow's and the ratio.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ruamel.yaml import YAML

from dbrnet.provenance import hardware, versions

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=480, help="of the training (default: 480, the demo's)")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args()
    ratios = []
    for number in range(1, options.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            steps = by_command_line(prepared(Path(folder) / "steps", options.steps))
            kubeflow = by_kubeflow(prepared(Path(folder) / "kubeflow", options.steps))
        ratios.append(kubeflow / steps)
        print(f"round {number}: steps {steps:.1f} s, Kubeflow {kubeflow:.1f} s, {ratios[-1]:.3f} times", flush=True)
    print(f"median {statistics.median(ratios):.3f} times ({min(ratios):.3f} to {max(ratios):.3f})")
    print(hardware(), versions())


def prepared(folder: Path, steps: int) -> Path:
    """A folder with the demo's parameters and images."""
    folder.mkdir()
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    params["train"]["steps"] = steps
    with (folder / "params.yaml").open("w") as file:
        YAML(typ="safe").dump(params, file)
    run(folder, sys.executable, "-m", "dbrnet", "generate", "--out", "data/steel-strip")
    return folder


def by_command_line(folder: Path) -> float:
    """Seconds of the stages' commands, one after the other, without what DVC adds."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    stages = YAML(typ="safe").load((folder / "dvc.yaml").read_text())["stages"]
    began = time.perf_counter()
    for stage in stages.values():
        run(folder, sys.executable, "-m", *stage["cmd"].split())
    return time.perf_counter() - began


def by_kubeflow(folder: Path) -> float:
    """Seconds of the same through Kubeflow's local runner."""
    began = time.perf_counter()
    run(folder, sys.executable, "-m", "pipelines", "run", "--local")
    return time.perf_counter() - began


def run(folder: Path, *words: str) -> None:
    """Run a command in `folder`; what it printed is shown only where it failed."""
    environment = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    done = subprocess.run(
        words, cwd=folder, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


if __name__ == "__main__":
    main()
