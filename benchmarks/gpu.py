"""Everything that is to be measured on a GPU, in one command that fits into the minutes that one is there.

    python benchmarks/gpu.py --minutes 12 --data FOLDER --out gpu

The parts follow each other, each in a process of its own that ends when its share of the time is over. Each figure is
written when it is known, to gpu.json and as tables to gpu.md under --out, and one part's failure is a line there.

    agreement    forward and backward pass against the CPU in float64; an iteration without a wait for the device and
                 without an operation on the CPU; a resumed training against an uninterrupted one; loss curves compiled
                 and with CUDA graphs against eager
    speed        images a second of training at 512x512, batch 8 and the best batch (benchmarks/training.py)
    neu-seg      a training by the recipe recipes/neu-seg.yaml at 512x512 on the group split, as many of the paper's 200
                 epochs as fit, and its score on the test split; the same on the random split. Weights and curves stay
    inference    latency and throughput at 512x512 and 256x1600 in every runtime, the paper's baseline (DDRNet's form)
                 in turns
    other-sets   if time is left: MT in five folds by group, Severstal's group split

FOLDER holds neu-seg.zip, magnetic-tile.zip and severstal-steel-defect-detection.zip, as far as they are there. Without
neu-seg.zip that part uses generated images. On a machine without a GPU all runs on the CPU, at sizes that fit.

Of this project's dependencies a bare machine with PyTorch, onnx, onnxruntime, onnxscript, opencv, pandas, safetensors,
scipy and tqdm also needs those of gpu-requirements.txt, whose wheels can be brought along:

    pip download --no-deps -c constraints.txt -r benchmarks/gpu-requirements.txt -d wheels
    pip install --no-index --no-deps --target site wheels/*.whl && export PYTHONPATH=$PWD/site:$PWD
"""

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_parts import PARTS, Part  # type: ignore[import-not-found]  # beside this script

from dbrnet.benchmark.measurement import table
from dbrnet.errors import UserError
from dbrnet.files import read_json, write_atomically, write_json
from dbrnet.provenance import collect_provenance, hardware

RESULT, PAGE = "gpu.json", "gpu.md"
START = 25.0  # seconds that a part's process may take beside, to import libraries


def run_part(name: str, seconds: float, data: Path | None, out: Path) -> None:
    """Run one part here, and write each of its figures at once."""
    figures: dict[str, Any] = {}

    def note(key: str, value: object) -> None:
        figures[key] = value
        write_json(out / f"{name}.json", figures)

    work: Callable[[Part], None] = PARTS[name][1]
    try:
        work(Part(note, time.monotonic() + seconds, data, out))
    except Exception as error:  # the next part may still tell something
        traceback.print_exc()
        note("error", f"{type(error).__name__}: {error}")


def run_all(minutes: float, data: Path | None, out: Path) -> None:
    """Run the parts in their processes; time that one leaves goes to those after it."""
    end = time.monotonic() + 60 * minutes
    content: dict[str, Any] = {
        "minutes": minutes,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "provenance": collect_provenance().model_dump(mode="json"),
        "parts": {},
    }
    left = list(PARTS)
    while left:
        name = left[0]
        share = PARTS[name][0] / sum(PARTS[each][0] for each in left)
        # At least half of its own, whatever those before it took.
        seconds = max(share * (end - time.monotonic()), 30 * minutes * PARTS[name][0])
        left.pop(0)
        content["parts"][name] = one_part(name, seconds, data, out)
        write_json(out / RESULT, content)
        write_atomically(out / PAGE, page(content).encode())
        print(f"{name}: {content['parts'][name].get('error', 'done')}", flush=True)


def one_part(name: str, seconds: float, data: Path | None, out: Path) -> dict[str, Any]:
    """What the part noted, also if it crashed or was ended."""
    (out / f"{name}.json").unlink(missing_ok=True)
    command = [sys.executable, __file__, "--part", name, "--minutes", str(seconds / 60), "--out", str(out)]
    command += ["--data", str(data)] if data else []
    began, error = time.monotonic(), None
    with (out / f"{name}.log").open("wb") as log:
        try:
            done = subprocess.run(command, stdout=log, stderr=log, timeout=1.1 * seconds + START)
            error = f"its process ended with {done.returncode}; see {name}.log" if done.returncode else None
        except subprocess.TimeoutExpired:
            error = "ended when its time was over"
    figures: dict[str, Any] = read_json(out / f"{name}.json") if (out / f"{name}.json").exists() else {}
    if error:
        figures.setdefault("error", error)
    return figures | {"seconds": round(time.monotonic() - began, 1)}


def page(content: dict[str, Any]) -> str:
    """The figures as Markdown."""
    lines = [f"# {content['device']}, {content['minutes']:g} minutes", "", f"{hardware().processors}", ""]
    for name, figures in content["parts"].items():
        lines += [f"## {name}", ""]
        single = {key: value for key, value in figures.items() if not isinstance(value, (dict, list))}
        if single:
            lines += [table([{"figure": key, "value": show(value)} for key, value in single.items()]), ""]
        for key, value in figures.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                lines += [f"{key}:", "", table([{k: show(v) for k, v in row.items()} for row in value]), ""]
            elif isinstance(value, dict):
                lines += [f"{key}: " + ", ".join(f"{k} {show(v)}" for k, v in value.items()), ""]
    return "\n".join(lines) + "\n"


def show(value: object) -> str:
    """A figure in few digits."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Run all parts, or the one that `run_all` started this process for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if not 0 < given.minutes <= 600:
        raise UserError(f"--minutes {given.minutes:g}: more than 0, and 600 at most")
    if given.data and not given.data.is_dir():
        raise UserError(f"--data {given.data} is not a folder")
    given.out.mkdir(parents=True, exist_ok=True)
    if given.part:
        run_part(given.part, 60 * given.minutes, given.data, given.out)
    else:
        run_all(given.minutes, given.data, given.out)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
