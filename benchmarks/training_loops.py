"""The loops that training.py compares, an iteration of each: the released code's form, and this project's."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from dbrnet.config import load_params
from dbrnet.models.dbrnet import DBRNet
from dbrnet.training.distributed import DistributedContext
from dbrnet.training.recipe import Recipe
from dbrnet.training.step import TrainStep

PARAMS = Path(__file__).parents[1] / "params.yaml"
RELEASED, KEPT, FP32, DEFAULT, COMPILED, GRAPHED = VARIANTS = (
    *("released", "released, memory kept", "fp32", "default", "compiled", "graphed"),
)
CLASSES, THRESHOLD = 4, 0.7

Size = tuple[int, int]
Iterate = Callable[[], object]


@dataclass(frozen=True)
class Block:
    """Some iterations in a row."""

    iterations: int
    seconds: float
    cpu_seconds: float  # of the process: other work on the machine does not count


def default_recipe(size: Size, batch: int, **changes: object) -> Recipe:
    """The section train of params.yaml at this size."""
    update = {"crop": size, "batch_size": batch, "symmetries": "flips"} | changes
    return load_params(PARAMS).train.model_copy(update=update)


def noise(size: Size, batch: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, H, W, 3] and masks [N, H, W]."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, *size, 3), generator=random, dtype=torch.uint8)
    masks = torch.randint(0, CLASSES, (batch, *size), generator=random, dtype=torch.uint8)
    return images, masks


def new_step(variant: str, size: Size, batch: int, device: torch.device) -> TrainStep:
    """An iteration of this project."""
    torch.manual_seed(0)
    recipe = default_recipe(size, batch, amp=variant != FP32, compile=variant == GRAPHED)
    step = TrainStep(DBRNet(CLASSES), (0.45,) * 3, (0.2,) * 3, recipe, DistributedContext(device))
    if variant == COMPILED:
        step._compute = torch.compile(step._losses, dynamic=False)
    return step


def released_loss(logits: Tensor, target: Tensor) -> Tensor:
    """OHEM's cross entropy as in the released code."""
    losses = F.cross_entropy(logits, target, ignore_index=255, reduction="none").flatten()
    probability = F.softmax(logits, 1).gather(1, target.where(target != 255, 0)[:, None]).flatten()
    valid = target.flatten() != 255
    probability, order = probability[valid].sort()
    threshold = max(probability[min(len(probability) // 16, len(probability) - 1)].item(), THRESHOLD)
    return losses[valid][order][probability < threshold].mean()


def released_loop(size: Size, batch: int, device: torch.device) -> Iterate:
    """An iteration in the form of the released code."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    model = DBRNet(CLASSES, alignment="released", process="depthwise").to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    pixels, masks = noise(size, batch)
    images = (pixels.permute(0, 3, 1, 2).float() / 255 - 0.45) / 0.2

    def iterate() -> float:
        target = masks.to(device).long()
        logits, auxiliary = model(images.to(device).contiguous())
        loss = released_loss(logits, target) + released_loss(auxiliary, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return iterate


def our_loop(variant: str, size: Size, batch: int, device: torch.device) -> Iterate:
    """An iteration of this project."""
    step, (images, masks) = new_step(variant, size, batch, device), noise(size, batch)
    return lambda: step.update(step.losses(images, masks)[0], 0)


def run_block(loop: Iterate, count: int, device: torch.device) -> Block:
    """Time `count` iterations, and the device's work with them."""
    began, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        loop()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return Block(count, time.perf_counter() - began, time.process_time() - cpu)
