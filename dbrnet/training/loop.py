"""The training loop: resumable at any iteration, with the best weights chosen on the validation split."""

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
from dbrnet.training.distributed import DistributedContext, join_processes
from dbrnet.training.loss import OhemCrossEntropy
from dbrnet.training.recipe import Recipe
from dbrnet.training.validation import validate

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EpochRow:
    """The figures of one epoch. Losses are means over its iterations."""

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


OnEpoch = Callable[[EpochRow], None]


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
    workers: int,
    checkpoint_seconds: float,
    on_epoch: OnEpoch | None = None,
) -> TrainResult:
    """Train on the GPU if there is one, else on the CPU; resume from the checkpoint in `workdir` if it fits.

    On the CPU the weights depend on data, recipe and number of threads alone, bit for bit, however often the run
    was killed and restarted. On a GPU speed goes first: cuDNN picks its fastest algorithms, and runs differ in the
    last digits. Neither `workers` (loading processes) nor `checkpoint_seconds` affects the weights.

    Processes that torchrun started train together. Each takes its share of every batch, and all get the result
    of one process, up to rounding. Only the first writes the checkpoint.

    `on_epoch` is called after each epoch, and again for the last one if the process was killed right after.
    Rows of epochs finished before a resumption come with the result.

    Raises `UserError` for an empty split and `JobError` when the loss is no longer finite.
    """
    for name, ids in {"training": train_ids, "validation": val_ids}.items():
        if not ids:
            raise UserError(f"the {name} split is empty; split again with other fractions")
    fingerprint = recipe.fingerprint(dataset.card.content_hash, train_ids, val_ids)
    with join_processes() as distributed:
        run = Run(dataset, train_ids, val_ids, recipe, distributed, workers=workers)
        run.finish(workdir, fingerprint, checkpoint_seconds, on_epoch)
        return run.result()


class Run:
    """The state of one training, and the operations that change it."""

    def __init__(
        self,
        dataset: Dataset,
        train_ids: Sequence[str],
        val_ids: Sequence[str],
        recipe: Recipe,
        distributed: DistributedContext,
        *,
        workers: int,
    ) -> None:
        self.recipe, self.workers = recipe, workers
        self.distributed, self.device = distributed, distributed.device
        torch.manual_seed(recipe.seed)  # of all devices
        self.train_images, self.val_images = (
            Images(dataset, ids, recipe.image_size, normalised=recipe.normalise_exposure)
            for ids in (train_ids, val_ids)
        )
        if workers:
            self.train_images.warm()
        mean, std = distributed.from_first(self.train_images.statistics)
        self.mean, self.std = torch.tensor(mean, device=self.device), torch.tensor(std, device=self.device)
        fill = tuple(255 * value for value in mean)
        self.augment = Augmentation(recipe.crop, recipe.scale, flip=recipe.flip, fill=fill)
        self.meta = ModelMeta(
            classes=dataset.card.classes,
            model=recipe.model,
            mean=mean,
            std=std,
            image_size=recipe.image_size,
            normalised=recipe.normalise_exposure,
        )
        self.names = [info.name for info in self.meta.classes]
        self._build_network()

        self.epoch = 0  # epochs finished
        self.batch = 0  # batches of the current epoch done
        self.batches_per_epoch = self._count_batches()
        self.losses: list[list[float]] = []  # of each iteration: total, main, auxiliary
        self.history: list[EpochRow] = []
        self.best_epoch, self.best_miou = 0, -1.0
        self.best_weights: dict[str, Tensor] = {}
        self.epoch_seconds = 0.0  # spent in the current epoch's iterations
        self.seconds = 0.0  # spent before `since`
        self.since = self.iteration_began = time.monotonic()

    def _build_network(self) -> None:
        """The network, its averaged copy, the loss and the optimizer."""
        recipe = self.recipe
        torch.backends.cudnn.benchmark = True
        self.model = self.meta.build()
        self.distributed.synchronise_batch_norms(self.model)
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = self.distributed.parallel(self.model)  # the model as it is trained
        self.loss = OhemCrossEntropy(recipe.ohem_threshold, self.distributed)
        # Decay on all parameters, batch norms too, as in the released code.
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )
        self.half = recipe.amp and self.device.type == "cuda"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.half)
        self.averaged: AveragedModel | None = None
        self.stateful: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}
        if recipe.ema_decay is not None:
            average = get_ema_multi_avg_fn(recipe.ema_decay)
            self.averaged = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
            self.stateful["averaged"] = self.averaged

    def _batches(self) -> list[list[int]]:
        """The indices of the current epoch's training images, by batch of all processes."""
        defect_free = [not sample.classes for sample in self.train_images.samples]
        recipe = self.recipe
        return epoch_batches(defect_free, recipe.defect_free, recipe.batch_size, recipe.seed, self.epoch)

    def _count_batches(self) -> int:
        """The batches of each epoch; `UserError` where there are none or too small ones."""
        batches = self._batches()
        if not batches:
            raise UserError("train.defect_free leaves nothing to train on: raise it, or add images with defects")
        if len(batches[0]) < self.distributed.size:
            raise UserError(
                f"a batch of {len(batches[0])} cannot be shared by {self.distributed.size} processes: raise "
                "train.batch_size, which counts the images of all, or start fewer"
            )
        return len(batches)

    @property
    def step(self) -> int:
        """Iterations done since the start."""
        return self.epoch * self.batches_per_epoch + self.batch

    @property
    def elapsed(self) -> float:
        """Seconds of work since the start, interruptions not counted."""
        return self.seconds + time.monotonic() - self.since

    def finish(
        self, workdir: Path, fingerprint: str, checkpoint_seconds: float, on_epoch: OnEpoch | None = None
    ) -> None:
        """Resume from the checkpoint in `workdir` if there is one, and train to the end of the last epoch."""
        first, epochs = self.distributed.first, self.recipe.epochs
        if state := self.distributed.from_first(lambda: load_checkpoint(workdir, fingerprint)):
            self.load_state(state)
            if self.epoch < epochs:
                log.info("resuming at epoch %d, iteration %d", self.epoch + 1, self.step)
            else:
                log.info("this training was finished before: its result is reused")
        saved = time.monotonic()
        while self.epoch < epochs:
            for images, masks in self.rest_of_epoch():
                self.iterate(images, masks)
                if first and time.monotonic() - saved >= checkpoint_seconds:
                    save_checkpoint(workdir, fingerprint, self.state())
                    saved = time.monotonic()
            row = self.finish_epoch()
            log.info(
                "epoch %d of %d: loss %.4f, validation mIoU %.4f (best %.4f), %.1f images/s",
                *(row.epoch, epochs, row.loss, row.val_miou, self.best_miou, row.images_per_second),
            )
            if on_epoch is not None:
                on_epoch(row)
            if first:
                save_checkpoint(workdir, fingerprint, self.state())
            saved = time.monotonic()

    def rest_of_epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the batches that the current epoch has left."""
        samples = Augmented(self.train_images, self.augment, self.recipe.seed, self.epoch)
        batches = [self.distributed.share(batch) for batch in self._batches()[self.batch :]]
        loader = load_batches(samples, batches, self.workers)
        self.iteration_began = time.monotonic()
        return progress(loader, len(batches), f"epoch {self.epoch + 1} of {self.recipe.epochs}")

    def iterate(self, images: Tensor, masks: Tensor) -> None:
        """One iteration on a share of a batch: images uint8 [N, H, W, 3], masks uint8 [N, H, W]."""
        rate = self.recipe.rate(self.step, self.batches_per_epoch)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
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
        batch_size = self.recipe.batch_size
        scores = validate(candidate, self.val_images, self.names, self.mean, self.std, batch_size, self.distributed)
        means = torch.tensor(self.losses[-self.batches_per_epoch :], dtype=torch.float64).mean(0).tolist()
        row = EpochRow(
            epoch=self.epoch + 1,
            step=self.step,
            learning_rate=self.recipe.rate(self.step - 1, self.batches_per_epoch),
            loss=means[0],
            main_loss=means[1],
            auxiliary_loss=means[2],
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
            **{name: holder.state_dict() for name, holder in self.stateful.items()},
            "random": torch.get_rng_state(),  # order and augmentation have seeds of their own; layers may draw from it
            "epoch": self.epoch,
            "batch": self.batch,
            "losses": torch.tensor(self.losses, dtype=torch.float64).reshape(-1, 3),
            "history": [asdict(row) for row in self.history],
            "best": (self.best_epoch, self.best_miou, self.best_weights),
            "seconds": (self.epoch_seconds, self.elapsed),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        for name, holder in self.stateful.items():
            holder.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.losses = state["losses"].tolist()
        self.history = [EpochRow(**row) for row in state["history"]]
        self.best_epoch, self.best_miou, self.best_weights = state["best"]
        self.epoch_seconds, self.seconds = state["seconds"]
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
            processes=self.distributed.size,
        )
