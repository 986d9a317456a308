"""The training loop: resumable at any iteration, the best weights chosen on validation."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dbrnet.data.dataset import Dataset
from dbrnet.data.loading import Augmented, Images, epoch_batches, load_batches, normalise
from dbrnet.errors import JobError, UserError
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta
from dbrnet.progress import progress
from dbrnet.training.augmentation import Augmentation
from dbrnet.training.checkpoint import load_checkpoint, save_checkpoint
from dbrnet.training.distributed import World, joined
from dbrnet.training.loss import OhemCrossEntropy
from dbrnet.training.randomness import random_state, restore_random_state, seed_all
from dbrnet.training.recipe import Recipe
from dbrnet.training.schedule import learning_rate
from dbrnet.training.validation import validate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRow:
    """What is known after an epoch. Losses are means over its iterations, before decay."""

    epoch: int  # from 1
    step: int  # iterations since the start
    learning_rate: float  # of the epoch's last iteration
    loss: float
    main_loss: float
    auxiliary_loss: float
    val_miou: float
    val_iou: dict[str, float | None]  # None: the class is absent from the validation split
    images_per_second: float  # of training alone
    seconds: float  # since the start, validation included, interruptions not


@dataclass(frozen=True)
class TrainResult:
    """The best network on validation, on the CPU in eval mode, and how it came about."""

    model: DBRNet
    meta: ModelMeta
    best_epoch: int
    best_miou: float
    history: tuple[EpochRow, ...]
    step_losses: tuple[float, ...]  # the total loss of each iteration
    seconds: float
    device: str  # of each process
    processes: int  # that trained together


def train(
    dataset: Dataset,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    recipe: Recipe,
    workdir: Path,
    *,
    on_epoch: Callable[[EpochRow], None] | None = None,
) -> TrainResult:
    """Train on the GPU if there is one, else on the CPU; go on from the checkpoint in `workdir` if it fits.

    On the CPU the weights depend on the arguments (and the number of threads) alone, bit for bit, however
    often the run was killed and started again. On a GPU speed goes first: cuDNN picks its fastest algorithms
    and runs differ in the last digits.

    Processes that torchrun started train together: each takes its share of every batch, and the outcome,
    which all get, is that of one process up to rounding. The first alone writes the checkpoint.

    `on_epoch` is called after each epoch, and again for the last one if the process was killed right after;
    rows of epochs finished before a resumption come with the result. Raises `UserError` for an empty split
    and `JobError` when the loss is no longer finite.
    """
    for split_name, ids in {"training": train_ids, "validation": val_ids}.items():
        if not ids:
            raise UserError(f"the {split_name} split is empty; split again with other fractions")
    fingerprint = recipe.fingerprint(dataset.card.content_hash, train_ids, val_ids)
    with joined() as world:
        run = _Run(dataset, train_ids, val_ids, recipe, world)
        _run_on(run, workdir, fingerprint, on_epoch)
        return run.result()


def _run_on(run: "_Run", workdir: Path, fingerprint: str, on_epoch: Callable[[EpochRow], None] | None) -> None:
    """Go on from the checkpoint, if there is one, to the last epoch's end."""
    recipe, world = run.recipe, run.world
    if state := world.from_first(lambda: load_checkpoint(workdir, fingerprint)):
        run.load_state(state)
        if run.epoch < recipe.epochs:
            log.info("going on from epoch %d, iteration %d", run.epoch + 1, run.step)
        else:
            log.info("this training was finished before: its result is taken")
    saved = time.monotonic()
    while run.epoch < recipe.epochs:
        for images, masks in run.rest_of_epoch():
            run.iterate(images, masks)
            if world.first and time.monotonic() - saved >= recipe.checkpoint_seconds:
                save_checkpoint(workdir, fingerprint, run.state())
                saved = time.monotonic()
        row = run.finish_epoch()
        log.info(
            "epoch %d of %d: loss %.4f, validation mIoU %.4f (best %.4f), %.1f images/s",
            *(row.epoch, recipe.epochs, row.loss, row.val_miou, run.best_miou, row.images_per_second),
        )
        if on_epoch is not None:
            on_epoch(row)
        if world.first:
            save_checkpoint(workdir, fingerprint, run.state())
        saved = time.monotonic()


class _Run:
    """All that changes while training, and what changes it."""

    def __init__(
        self, dataset: Dataset, train_ids: Sequence[str], val_ids: Sequence[str], recipe: Recipe, world: World
    ) -> None:
        self.recipe, self.world, self.device = recipe, world, world.device
        self.half = recipe.amp and self.device.type == "cuda"
        torch.backends.cudnn.benchmark = True
        seed_all(recipe.seed)

        self.train_images, self.val_images = (
            Images(dataset, ids, recipe.image_size, normalised=recipe.normalise_exposure)
            for ids in (train_ids, val_ids)
        )
        if recipe.workers:
            self.train_images.warm()
        mean, std = world.from_first(self.train_images.statistics)
        self.mean, self.std = torch.tensor(mean, device=self.device), torch.tensor(std, device=self.device)
        fill = (mean[0] * 255, mean[1] * 255, mean[2] * 255)
        self.augment = Augmentation(recipe.crop, recipe.scale, flip=recipe.flip, fill=fill)

        self.meta = ModelMeta(
            classes=dataset.card.classes,
            lfem=recipe.lfem,
            affm=recipe.affm,
            dcppm=recipe.dcppm,
            mean=mean,
            std=std,
            image_size=recipe.image_size,
            normalised=recipe.normalise_exposure,
        )
        self.names = [info.name for info in self.meta.classes]
        self.model = self.meta.build()
        world.synchronise(self.model)
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = world.parallel(self.model)  # the model as it is trained
        self.averaged = (
            AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay), use_buffers=True)
            if recipe.ema_decay is not None
            else None
        )
        self.loss = OhemCrossEntropy(recipe.ohem_threshold, world)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half)

        self.epoch = 0  # epochs finished
        self.batch = 0  # batches of the current epoch done
        batches = self._batches()
        self.batches_per_epoch = len(batches)
        if not batches:
            raise UserError("train.defect_free leaves nothing to train on: raise it, or add images with defects")
        if len(batches[0]) < world.size:
            raise UserError(
                f"a batch of {len(batches[0])} cannot be shared by {world.size} processes: raise "
                "train.batch_size, which counts the images of all, or start fewer"
            )
        self.losses: list[list[float]] = []  # of each iteration: total, main, auxiliary
        self.history: list[EpochRow] = []
        self.best_epoch, self.best_miou = 0, -1.0
        self.best_weights: dict[str, Tensor] = {}
        self.epoch_seconds = 0.0  # spent in the current epoch's iterations
        self.seconds = 0.0  # spent before `since`
        self.since = self.iteration_began = time.monotonic()

    @property
    def step(self) -> int:
        """Iterations done since the start."""
        return self.epoch * self.batches_per_epoch + self.batch

    @property
    def elapsed(self) -> float:
        """Seconds of work since the start, interruptions not counted."""
        return self.seconds + time.monotonic() - self.since

    def _batches(self) -> list[list[int]]:
        defect_free = [not sample.classes for sample in self.train_images.samples]
        recipe = self.recipe
        return epoch_batches(defect_free, recipe.defect_free, recipe.batch_size, recipe.seed, self.epoch)

    def rest_of_epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the current epoch's batches that are still to be trained on."""
        samples = Augmented(self.train_images, self.augment, self.recipe.seed, self.epoch)
        batches = [self.world.share(batch) for batch in self._batches()[self.batch :]]
        loader = load_batches(samples, batches, self.recipe.workers)
        label = f"epoch {self.epoch + 1} of {self.recipe.epochs}"
        self.iteration_began = time.monotonic()
        return progress(loader, len(batches), label)

    def rate(self, step: int) -> float:
        """The learning rate of iteration `step`."""
        warmup = round(self.recipe.warmup_epochs * self.batches_per_epoch)
        total = self.recipe.epochs * self.batches_per_epoch
        return learning_rate(step, total, self.recipe.learning_rate, warmup, self.recipe.schedule)

    def iterate(self, images: Tensor, masks: Tensor) -> None:
        """One iteration on a share of a batch: images uint8 [N, H, W, 3], masks uint8 [N, H, W]."""
        rate = self.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs = normalise(images.to(self.device, non_blocking=True), self.mean, self.std)
        target = masks.to(self.device, non_blocking=True).long()
        self.model.train()
        with torch.autocast(self.device.type, dtype=torch.float16, enabled=self.half):
            logits, auxiliary_logits = self.network(inputs)
        main, auxiliary = self.loss(logits, target), self.loss(auxiliary_logits, target)
        loss = main + self.recipe.auxiliary_weight * auxiliary
        values = torch.stack([loss, main, auxiliary]).tolist()
        if not math.isfinite(values[0]):
            raise JobError(
                f"training diverged: the loss is {values[0]} in epoch {self.epoch + 1}, "
                f"iteration {self.step + 1}, at learning rate {rate:.3g}; "
                "lower train.learning_rate or raise train.warmup_epochs"
            )
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.averaged is not None:
            self.averaged.update_parameters(self.model)
        self.losses.append(values)
        self.batch += 1
        now = time.monotonic()
        self.epoch_seconds += now - self.iteration_began
        self.iteration_began = now

    def finish_epoch(self) -> EpochRow:
        """Validate, keep the weights if they are the best so far (the earlier of equals), count the epoch."""
        candidate = self.model if self.averaged is None else self.averaged.module
        scores = validate(
            candidate, *(self.val_images, self.names, self.mean, self.std), self.recipe.batch_size, self.world
        )
        last = torch.tensor(self.losses[-self.batches_per_epoch :], dtype=torch.float64).mean(0).tolist()
        row = EpochRow(
            epoch=self.epoch + 1,
            step=self.step,
            learning_rate=self.rate(self.step - 1),
            loss=last[0],
            main_loss=last[1],
            auxiliary_loss=last[2],
            val_miou=scores.miou,
            val_iou=scores.iou,
            images_per_second=sum(map(len, self._batches())) / max(self.epoch_seconds, 1e-9),
            seconds=self.elapsed,
        )
        if row.val_miou > self.best_miou:
            self.best_epoch, self.best_miou = row.epoch, row.val_miou
            self.best_weights = {name: value.detach().cpu().clone() for name, value in candidate.state_dict().items()}
        self.history.append(row)
        self.epoch, self.batch, self.epoch_seconds = self.epoch + 1, 0, 0.0
        return row

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, in types that `torch.load(weights_only=True)` reads."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averaged": self.averaged.state_dict() if self.averaged is not None else None,
            "random": random_state(),
            "epoch": self.epoch,
            "batch": self.batch,
            "losses": torch.tensor(self.losses, dtype=torch.float64).reshape(-1, 3),
            "history": [asdict(row) for row in self.history],
            "best": {"epoch": self.best_epoch, "miou": self.best_miou, "weights": self.best_weights},
            "epoch_seconds": self.epoch_seconds,
            "seconds": self.elapsed,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])
        restore_random_state(state["random"])
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.losses = state["losses"].tolist()
        self.history = [EpochRow(**row) for row in state["history"]]
        best = state["best"]
        self.best_epoch, self.best_miou, self.best_weights = best["epoch"], best["miou"], best["weights"]
        self.epoch_seconds, self.seconds = state["epoch_seconds"], state["seconds"]
        self.since = time.monotonic()

    def result(self) -> TrainResult:
        """The outcome, with the best weights in the network."""
        model = self.model.cpu()
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        model.load_state_dict(self.best_weights)
        return TrainResult(
            model=model.eval(),
            meta=self.meta,
            best_epoch=self.best_epoch,
            best_miou=self.best_miou,
            history=tuple(self.history),
            step_losses=tuple(total for total, _, _ in self.losses),
            seconds=self.elapsed,
            device=torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            processes=self.world.size,
        )
