"""The speed of each runtime, compared with the network as its authors released it, in PyTorch eager.

    python benchmarks/runtimes.py --sizes 512x512 256x1600 --seconds 20 --out speed

`--trained`, `--exported` and `--evaluated` are the folders of these steps (default: under artifacts/). Measures in one
run, in blocks that take turns,

    released, eager        DBRNet with the released code's readings (flow "released", process "depthwise"),
                           fresh weights, and the same input and outputs as all others; its tensors are in
                           channels-first order, as in the released code: the baseline
    released, memory kept  the baseline with MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_MAX_ set so that the C
                           library keeps freed memory, which saves the page faults of each map
    released, forward      the same network alone: a normalised float image in, logits out
    released, autograd     that with autograd left on, as the authors' own script times it
    each runtime           that the machine has, with the given model
    each --also            NAME=PATH@RUNTIME, another model.pt or exported .onnx

on built-in images at each size (their content does not affect the speed), and prints a table in Markdown for each
size: how many times as fast as the baseline, with a 95 % interval from the paired blocks; p50, p90 and p99 in
milliseconds from the image in memory to the mask in memory; p50 from file to file; and the roofline as a share of
p50. Models in PyTorch run in processes of their own (`subprocess_benchmark.py`). `--out DIR` keeps every figure as
JSON, and draws for each size the distribution of the latencies, and the speed against the accuracy of the evaluate
step on its test split.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from subprocess_benchmark import SubprocessModel, keeping_memory  # type: ignore[import-not-found]  # beside this script

from dbrnet.benchmark.hardware import machine_state
from dbrnet.benchmark.measurement import Measured, measure, noise, table
from dbrnet.benchmark.roofline import count_work
from dbrnet.data.loading import zoomed_size
from dbrnet.data.synthetic import generate
from dbrnet.errors import UserError
from dbrnet.files import write_atomically, write_json
from dbrnet.inference.runtimes import RUNTIMES, open_all, open_model, why_not_available
from dbrnet.inference.runtimes.base import Answer, Images, Model
from dbrnet.inference.runtimes.pytorch import TorchModel
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta, load_model
from dbrnet.provenance import available_cores, collect_provenance, hardware
from dbrnet.records import WEIGHTS_FILE, EvaluationRecord, WorkFacts
from dbrnet.reports.plots import latency_plot, speed_accuracy_plot

BASELINE, KEPT = "released, eager", "released, memory kept"
FORWARD, AUTOGRAD = "released, forward", "released, autograd"
IMAGES = 8

Size = tuple[int, int]


class Forward(TorchModel):
    """The network alone, without pre- and postprocessing: its image is on the device already."""

    def __init__(self, model: DBRNet, meta: ModelMeta, size: Size, threads: int, *, autograd: bool) -> None:
        super().__init__(model, meta, threads=threads)
        self._autograd = autograd
        self._network = model.to(self.device)
        self._image = torch.rand(1, 3, *zoomed_size(*size, meta.zoom), device=self.device)
        self._outputs = np.zeros((1, *size), np.uint8), np.zeros((1, *size), np.float32)

    def predict(self, images: Images) -> Answer:
        """Compute the logits, and return an empty mask."""
        with torch.inference_mode(not self._autograd):
            self._network(self._image)
        if self.device == "cuda":
            torch.cuda.synchronize()
        return self._outputs


def images(size: Size) -> list[bytes]:
    """JPEG files of steel strips, side by side until they fill `size`."""
    height, width = size
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder, "strips"), images=IMAGES)
        strips = [cv2.imread(str(path)) for path in sorted(Path(folder, "strips/train_images").iterdir())]
    files = []
    for strip in strips:
        assert strip is not None
        repeats = -(-height // strip.shape[0]), -(-width // strip.shape[1]), 1
        files.append(cv2.imencode(".jpg", np.tile(strip, repeats)[:height, :width])[1].tobytes())
    return files


def released_network(meta: ModelMeta) -> DBRNet:
    """DBRNet as in its authors' code, with fresh weights."""
    return DBRNet(len(meta.classes), alignment="released", process="depthwise").eval()


def released(meta: ModelMeta, size: Size, threads: int, part: str) -> Model:
    """The network as its authors released it, whole or that `part` of it."""
    network = released_network(meta)
    if part in (FORWARD, AUTOGRAD):
        return Forward(network, meta, size, threads, autograd=part == AUTOGRAD)
    # Our runtimes keep an image channels-last, as it is decoded. PyTorch then computes all maps so, which is faster.
    network.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return TorchModel(network, meta, threads=threads)


def measure_size(given: argparse.Namespace, size: Size) -> tuple[dict[str, Measured], dict[str, str]]:
    """All figures at one size, and the reasons why runtimes are missing."""
    network, meta = load_model(given.trained / WEIGHTS_FILE)
    theirs, ours = (count_work(model, *zoomed_size(*size, meta.zoom)) for model in (released_network(meta), network))
    settings = meta, size, given.threads
    models: dict[str, Model] = {
        BASELINE: SubprocessModel(size, released, *settings, BASELINE),
        KEPT: SubprocessModel(size, keeping_memory, released, *settings, BASELINE),
        FORWARD: SubprocessModel(size, released, *settings, FORWARD),
        AUTOGRAD: SubprocessModel(size, released, *settings, AUTOGRAD),
    }
    work: dict[str, WorkFacts] = dict.fromkeys(models, theirs)
    in_pytorch = [name for name in given.runtimes if name.startswith("pytorch")]
    others = [name for name in given.runtimes if name not in in_pytorch]
    opened, missing = open_all(others, given.trained, given.exported, given.threads)
    for name in in_pytorch:
        if reason := why_not_available(name):
            missing[name] = reason
        else:
            models[name] = SubprocessModel(size, open_model, given.trained / WEIGHTS_FILE, name, given.threads)
    models |= opened
    work |= {name: ours for name in models if name not in work}
    for name, path, runtime in given.also:
        models[name] = open_model(path, runtime, given.threads)
    return measure(models, images(size), work, seconds=given.seconds), missing


def report(measured: dict[str, Measured]) -> str:
    """The table for one size."""
    rows = []
    for name, one in measured.items():
        row = one.row(name)
        del row["images/s (batch)"]
        if name in (FORWARD, AUTOGRAD):
            row["file to file p50 ms"] = ""
        rows.append({"runtime": name, "times as fast": str(one.times_as_fast_as(measured[BASELINE])), **row})
    return table(rows)


def draw(given: argparse.Namespace, size: Size, measured: dict[str, Measured]) -> None:
    """latency-HxW.png and speed-accuracy-HxW.png."""
    name = f"{size[0]}x{size[1]}"
    title = f"{name}, batch 1, {given.threads} threads, {hardware().processors}"
    times = {key: [1000 * run.predict for run in one.series.runs] for key, one in measured.items()}
    write_atomically(given.out / f"latency-{name}.png", latency_plot(times, title))
    accuracy = EvaluationRecord.load(given.evaluated).runtimes
    points = {key: (one.speed.fps, accuracy[key].miou) for key, one in measured.items() if key in accuracy}
    if points:
        write_atomically(given.out / f"speed-accuracy-{name}.png", speed_accuracy_plot(points, title))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trained", type=Path, default=Path("artifacts/train"))
    parser.add_argument("--exported", type=Path, default=Path("artifacts/export"))
    parser.add_argument("--evaluated", type=Path, default=Path("artifacts/evaluate"))
    parser.add_argument("--sizes", type=_size, nargs="+", default=[(512, 512), (256, 1600)])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each runtime and size")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=RUNTIMES)
    parser.add_argument("--also", type=_also, nargs="+", default=[], metavar="NAME=PATH@RUNTIME")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def _size(text: str) -> Size:
    height, width = (int(side) for side in text.split("x"))
    return height, width


def _also(text: str) -> tuple[str, Path, str]:
    name, _, rest = text.partition("=")
    path, _, runtime = rest.rpartition("@")
    return name, Path(path), runtime


def main() -> None:
    """Measure and print."""
    given = parse()
    source = collect_provenance()
    print(f"{hardware().processors}, {given.threads} threads; {source.libraries}\n")
    figures: list[dict[str, Any]] = []
    for size in given.sizes:
        start = machine_state().model_dump()
        measured, missing = measure_size(given, size)
        print(f"{size[0]}x{size[1]}, batch 1, {given.seconds:g} s each\n\n{report(measured)}\n")
        print("".join(f"left out: {reason}\n" for reason in missing.values()))
        if warning := noise(measured):
            print(f"{warning}\n")
        figures.append(
            {
                "size": size,
                "runtimes": {
                    name: one.speed.model_dump(mode="json")
                    | {"times_as_fast": one.times_as_fast_as(measured[BASELINE]).model_dump()}
                    for name, one in measured.items()
                },
                "not_available": missing,
                "machine": {"start": start, "end": machine_state().model_dump()},
            }
        )
        if given.out:
            draw(given, size, measured)
    if given.out:
        content = {"baseline": BASELINE, "sizes": figures, "provenance": source.model_dump(mode="json")}
        write_json(given.out / "runtimes.json", content)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
