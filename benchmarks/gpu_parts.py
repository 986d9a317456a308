"""The parts of gpu.py. Each takes a `Part`: where to note a figure, and how long it may work."""

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from gpu_learning import other_sets, train_neu_seg  # type: ignore[import-not-found]  # these two beside this file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training import measure_training, plain, variants_here  # type: ignore[import-not-found]
from training_loops import CLASSES, COMPILED, DEFAULT, GRAPHED, RELEASED, default_recipe, new_step, noise, run_block  # type: ignore[import-not-found]

from dbrnet.benchmark.measurement import measure
from dbrnet.benchmark.roofline import count_work
from dbrnet.data import surfaces
from dbrnet.data.dataset import ClassInfo
from dbrnet.inference.export import export_onnx
from dbrnet.inference.runtimes import RUNTIMES, file_of, open_all
from dbrnet.inference.runtimes.base import Model
from dbrnet.inference.runtimes.pytorch import TorchModel
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta, load_model, save_model
from dbrnet.provenance import available_cores
from dbrnet.records import MODEL_FILE, WEIGHTS_FILE, WorkFacts
from dbrnet.training.distributed import keep_memory
from dbrnet.training.step import TrainStep

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
THREADS = available_cores() if CUDA else 1
SIDE = 512 if CUDA else 128  # of the crops that the speed is measured at
BATCH, BATCHES_DRAWN = (8, 8) if CUDA else (2, 4)
CURVE = 200  # iterations
TRACING, STARTING, EXPORTING = 15.0, 25.0, 20.0  # seconds that these may take on a CPU
BATCHES = (16, 32, 64, 128, 256)


@dataclass(frozen=True)
class Part:
    """What a part works with."""

    note: Callable[[str, object], None]  # a figure by its name, kept at once
    deadline: float  # of time.monotonic
    data: Path | None
    out: Path

    @property
    def left(self) -> float:
        """Seconds."""
        return self.deadline - time.monotonic()


class OnTheCpu(TorchDispatchMode):
    """Notes the operations on tensors of the CPU, numbers aside."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = function(*args, **(kwargs or {}))
        values = [each for each in (*args, result) if isinstance(each, Tensor)]
        if any(each.device.type == "cpu" and each.dim() > 0 for each in values):
            self.found.add(str(function))
        return result


def agreement(part: Part) -> None:
    """Forward and backward pass, waits, fallback, resumption, loss curves."""
    keep_memory()
    for name, difference in against_float64().items():
        part.note(name, difference)
    batches = [drawn(index) for index in range(BATCHES_DRAWN)]
    if CUDA:
        part.note("operations on the CPU", sorted(fallbacks(batches[0])))
        part.note("waits for the device", waits(batches[0]))
    part.note("resumed, largest difference of a loss", resumption(batches))
    eager, gradient = curve(DEFAULT, batches, part.left / 6, CURVE)
    part.note("iterations compared", len(eager))
    part.note("loss of the last tenth, eager", float(np.mean(eager[-max(1, len(eager) // 10) :])))
    part.note("eager again, curve differs by", distance(curve(DEFAULT, batches, part.left, len(eager))[0], eager))
    # On a CPU kernels are not compiled, but traced: that goes through the same code.
    for variant in (COMPILED, GRAPHED) if CUDA else (GRAPHED,):
        if not CUDA and part.left < TRACING:
            part.note(variant, "no time was left")
            return
        other, its_gradient = curve(variant, batches, part.left, len(eager))
        part.note(f"{variant}, iterations", len(other))
        part.note(f"{variant}, curve differs by", distance(other, eager[: len(other)]))
        part.note(f"{variant}, gradient differs by", gradient_difference(its_gradient, gradient))


def against_float64() -> dict[str, float]:
    """The largest relative difference of logits and of a parameter's gradient from those of the CPU in float64."""
    torch.backends.cudnn.allow_tf32 = False
    found = []
    for device, dtype in ((torch.device("cpu"), torch.float64), (DEVICE, torch.float32)):
        torch.manual_seed(0)
        model = DBRNet(CLASSES).to(device, dtype).train()
        images = torch.randn(2, 3, 96, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        logits, auxiliary = model(images.to(device, dtype))
        (logits.square().mean() + auxiliary.square().mean()).backward()
        gradients = [each.grad.double().cpu() for each in model.parameters() if each.grad is not None]
        found.append((logits.detach().double().cpu(), torch.cat([each.flatten() for each in gradients])))
    (exact, exact_gradient), (logits, gradient) = found
    return {
        "logits, relative difference to float64": float((logits - exact).norm() / exact.norm()),
        "gradient, relative difference to float64": float((gradient - exact_gradient).norm() / exact_gradient.norm()),
    }


def started(variant: str) -> TrainStep:
    """An iteration at the start of a training."""
    return new_step(variant, (SIDE, SIDE), BATCH, DEVICE)


def drawn(index: int) -> tuple[Tensor, Tensor]:
    """A batch of generated surfaces with defects, in pinned memory where there is a GPU."""
    random = np.random.default_rng([7, index])
    images, masks = zip(*(surfaces.draw(random, SIDE, SIDE) for _ in range(BATCH)), strict=True)
    batch = torch.from_numpy(np.stack(images)), torch.from_numpy(np.minimum(np.stack(masks), CLASSES - 1))
    return (batch[0].pin_memory(), batch[1].pin_memory()) if CUDA else batch


def fallbacks(batch: tuple[Tensor, Tensor]) -> set[str]:
    """The operations of an iteration that took or gave tensors on the CPU, beside the batch itself."""
    step = started(DEFAULT)
    on_device = tuple(each.to(DEVICE) for each in batch)
    with OnTheCpu() as noted:
        step.update(step.losses(*on_device)[0], 0)
    return noted.found


def waits(batch: tuple[Tensor, Tensor]) -> str:
    """What of an iteration made the program wait for the GPU."""
    step = started(DEFAULT)
    step.update(step.losses(*batch)[0], 0)  # libraries start, which waits
    torch.cuda.set_sync_debug_mode("error")
    try:
        step.update(step.losses(*batch)[0], 1)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "none"


def resumption(batches: Sequence[tuple[Tensor, Tensor]]) -> float:
    """How far the losses after a resumption lie from those of an uninterrupted training, relative."""
    first = started(DEFAULT)
    advance(first, batches, range(2))
    other = started(DEFAULT)
    content = io.BytesIO()
    torch.save(first.state(), content)
    content.seek(0)
    other.load_state(torch.load(content, weights_only=True))
    return distance(advance(other, batches, range(2, 4)), advance(first, batches, range(2, 4)))


def advance(step: TrainStep, batches: Sequence[tuple[Tensor, Tensor]], places: range) -> list[float]:
    """Iterate over the batches in turn; the losses."""
    found = []
    for place in places:
        losses = step.losses(*batches[place % len(batches)])
        found.append(losses[0].detach().clone())
        step.update(losses[0], place)
    return torch.stack(found).tolist()


def curve(
    variant: str, batches: Sequence[tuple[Tensor, Tensor]], seconds: float, steps: int
) -> tuple[list[float], dict[str, Tensor]]:
    """The losses of as many iterations as fit into `seconds`, `steps` at most, and the gradient before them."""
    step, end = started(variant), time.monotonic() + seconds
    step.losses(*batches[0])[0].backward()
    gradient = {name: each.grad.clone() for name, each in step.model.named_parameters() if each.grad is not None}
    step.optimizer.zero_grad()
    found: list[float] = []
    while len(found) < steps and (len(found) < 4 or time.monotonic() < end):
        found += advance(step, batches, range(len(found), min(len(found) + 4, steps)))
    return found, gradient


def distance(own: Sequence[float], other: Sequence[float]) -> float:
    """The largest relative difference of two curves, each smoothed over a tenth of it."""
    width = max(1, len(other) // 10)
    smooth = [np.convolve(each, np.ones(width) / width, "valid") for each in (own, other)]
    return float(np.max(np.abs(smooth[0] / smooth[1] - 1)))


def gradient_difference(own: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest relative difference of a parameter's gradient, of those that are not close to zero."""
    largest = max(float(value.norm()) for value in other.values())
    kept = {name: value for name, value in other.items() if value.norm() > 1e-3 * largest}
    return max(float((own[name] - value).norm() / value.norm()) for name, value in kept.items())


def speed(part: Part) -> None:
    """Images a second of training."""
    size = SIDE, SIDE
    variants = variants_here() if CUDA else (RELEASED, DEFAULT)
    for batch, seconds in ((8, (0.5 if CUDA else 1.0) * part.left), (None, 0.4 * part.left)):
        if batch is None:
            if not CUDA:
                return
            batch = best_batch(part, size)
            variants = RELEASED, DEFAULT, GRAPHED
        found, failed = measure_training(
            size,
            batch,
            THREADS,
            rounds=5,
            seconds=seconds / 5,
            start_seconds=max(0.6 * seconds, STARTING),
            variants=variants,
        )
        part.note(f"batch {batch} at {SIDE}x{SIDE}", rows(plain(found)))
        part.note(f"figures, batch {batch}", plain(found))
        part.note(f"left out, batch {batch}", failed)


def rows(found: dict[str, Any]) -> list[dict[str, Any]]:
    """A table of the most important figures."""
    return [
        {
            "loop": name,
            "images/s": each["images_per_second"],
            "times as fast": (each["times_as_fast"] or {"value": 1.0})["value"],
            "roofline": each["roofline_share"],
            "bound": each["bound"],
            "busy": each["busy"],
        }
        for name, each in found.items()
    ]


def best_batch(part: Part, size: tuple[int, int]) -> int:
    """The eager loop's best batch: a larger one is not faster by a tenth, or does not fit."""
    rates: dict[int, float] = {}
    for batch in BATCHES:
        try:
            step, (images, masks) = new_step(DEFAULT, size, batch, DEVICE), noise(size, batch)
            iterate = partial(_iterate, step, images.pin_memory(), masks.pin_memory())
            run_block(iterate, 3, DEVICE)
            block = run_block(iterate, 5, DEVICE)
        except torch.OutOfMemoryError:
            break
        rates[batch] = batch * block.iterations / block.seconds
        if rates[batch] < 1.1 * max([rate for other, rate in rates.items() if other != batch], default=0.0):
            break
    part.note("eager, images/s by batch", rates)
    return max(rates, key=lambda batch: rates[batch])


def _iterate(step: TrainStep, images: Tensor, masks: Tensor) -> None:
    step.update(step.losses(images, masks)[0], 0)


def inference(part: Part) -> None:
    """Latency and throughput in every runtime."""
    trained = part.out / "neu-seg-groups"
    if not (trained / WEIGHTS_FILE).exists():
        trained = part.out / "untrained"
        trained.mkdir(exist_ok=True)
        save_model(trained / WEIGHTS_FILE, *untrained({"lfem": True, "affm": True, "dcppm": True}))
    network, meta = load_model(trained / WEIGHTS_FILE)
    wanted = [name for name in RUNTIMES if not name.startswith("openvino")]
    if CUDA or part.left > EXPORTING:
        export_onnx(network, meta, trained / MODEL_FILE, metadata={})
    if not CUDA:  # compiling takes too long there
        wanted = [name for name in ("pytorch-eager", "onnxruntime-cpu") if (trained / file_of(name)).exists()]
    models, missing = open_all(wanted, trained, trained, THREADS)
    part.note("missing", missing)
    baseline, baseline_meta = untrained({"lfem": False, "affm": False, "dcppm": False})
    modes = ("eager", "cudagraph") if CUDA else ("eager",)
    others: dict[str, Model] = {
        f"baseline (DDRNet's form), pytorch-{mode}": TorchModel(baseline, baseline_meta, mode, THREADS)
        for mode in modes
    }
    sizes = [(512, 512), (256, 1600)] if CUDA else [(128, 128)]
    for place, size in enumerate(sizes):
        share = part.left / (len(sizes) - place)
        work: dict[str, WorkFacts] = dict.fromkeys(models, count_work(network, *size))
        work |= dict.fromkeys(others, count_work(baseline, *size))
        seconds = max(0.4, 0.5 * share / len(work))
        measured = measure(
            {**models, **others}, pictures(size), work, seconds=seconds, in_batches=list(work) if CUDA else ()
        )
        part.note(f"{size[0]}x{size[1]}, batch 1", [one.row(name) for name, one in measured.items()])
        part.note(
            f"figures {size[0]}x{size[1]}", {name: one.speed.model_dump(mode="json") for name, one in measured.items()}
        )


def untrained(switches: dict[str, bool]) -> tuple[DBRNet, ModelMeta]:
    """A network with fresh weights: those do not affect the speed."""
    classes = tuple(ClassInfo(f"class-{index}", (0, 0, 50 * index)) for index in range(CLASSES))
    model = default_recipe((128, 128), 8).model.model_copy(update=switches)
    meta = ModelMeta(classes=classes, model=model, mean=(0.5,) * 3, std=(0.2,) * 3, zoom=1.0, normalised=False)
    return meta.build().eval(), meta


def pictures(size: tuple[int, int]) -> list[bytes]:
    """Generated surfaces as JPEG files."""
    random = np.random.default_rng(0)
    return [cv2.imencode(".jpg", surfaces.draw(random, *size)[0])[1].tobytes() for _ in range(4)]


# Each part's share of the time, and its function.
PARTS: dict[str, tuple[float, Callable[[Part], None]]] = {
    "agreement": (0.15, agreement),
    "speed": (0.25, speed),
    "neu-seg": (0.40, train_neu_seg),
    "inference": (0.14, inference),
    "other-sets": (0.06, other_sets),
}
