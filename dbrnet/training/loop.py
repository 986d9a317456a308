"""The training loop: resumable at any iteration; the last averaged weights are the result."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dbrnet.data.dataset import Dataset
from dbrnet.errors import JobError, UserError
from dbrnet.evaluation.metrics import Confusion, Scores
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta
from dbrnet.progress import progress
from dbrnet.records import format_value
from dbrnet.training.checkpoint import load_checkpoint, save_checkpoint
from dbrnet.training.crops import load_batches
from dbrnet.training.distributed import DistributedContext, join_processes
from dbrnet.training.recipe import Recipe
from dbrnet.training.start import Start
from dbrnet.training.step import TrainStep
from dbrnet.training.task import Task, dataset_task
from dbrnet.training.validation import Plan, validate
from dbrnet.training.watch import Pace, nothing_found

log = logging.getLogger(__name__)

FLUSH = 20  # iterations between two looks at the loss, each of which makes a GPU wait
BROKEN = 0.8  # the last weights are not used if they reach less than this share of the best validation mIoU before


@dataclass(frozen=True)
class HistoryRow:
    """The figures of one validation. Losses are means over the iterations since the one before."""

    step: int  # iterations since the start
    learning_rate: float  # of the last iteration
    loss: float
    main_loss: float
    auxiliary_loss: float
    val_miou: float
    val_iou: dict[str, float | None]  # None: the class is absent from the validation split
    images_per_second: float  # of training alone
    seconds: float  # since the start, validation included, interruptions not


OnValidation = Callable[[HistoryRow], None]


@dataclass(frozen=True)
class TrainResult:
    """The trained network, on the CPU in eval mode, and how it came about."""

    model: DBRNet
    meta: ModelMeta
    chosen_step: int  # that its weights are of
    val_miou: float  # of these weights
    history: tuple[HistoryRow, ...]
    step_losses: tuple[float, ...]  # the total loss of each iteration
    seconds: float
    device: str  # of each process
    processes: int  # that trained together
    warnings: tuple[str, ...]  # what a person should know of how it ran


def train(
    dataset: Dataset,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    recipe: Recipe,
    workdir: Path,
    *,
    workers: int | None,
    checkpoint_seconds: float,
    start: Start | None = None,
    on_validation: OnValidation | None = None,
) -> TrainResult:
    """Train on a dataset, on the GPU if there is one, else on the CPU; resume from the checkpoint in `workdir`.

    On the CPU the weights depend on data, recipe, processor and number of threads alone, bit for bit, however often
    the run was killed and restarted. On a GPU speed goes first: cuDNN picks its fastest algorithms, and runs differ in
    the last digits. Neither `workers` (loading processes; None: as many as cores
    beside a GPU, else none) nor `checkpoint_seconds` affects the weights.

    Processes that torchrun started train together. Each takes its share of every batch, and all get the result
    of one process, up to rounding. Only the first writes the checkpoint.

    `start`: the weights to begin with; None: random ones. `on_validation` is called after each validation, and again
    for the last one if the process was killed right after. Rows of before a resumption come with the result.

    Raises `UserError` for an empty split or a start that does not fit, and `JobError` when the loss is no longer
    finite.
    """
    for name, ids in {"training": train_ids, "validation": val_ids}.items():
        if not ids:
            raise UserError(f"the {name} split is empty; split again with other fractions")
    splits = dataset.groups(train_ids), dataset.groups(val_ids)
    fingerprint = recipe.fingerprint(dataset.card.content_hash, *splits, start.digest if start else "")
    with join_processes() as distributed:
        warm = distributed.loading_processes(workers) > 0
        task = dataset_task(dataset, train_ids, val_ids, recipe, distributed, warm=warm)
        run = Run(task, recipe, distributed, workers=workers, start=start)
        run.finish(workdir, fingerprint, checkpoint_seconds, on_validation)
        return run.result()


class Run:
    """The state of one training, and the operations that change it."""

    def __init__(
        self,
        task: Task,
        recipe: Recipe,
        distributed: DistributedContext,
        *,
        workers: int | None,
        start: Start | None = None,
    ) -> None:
        if recipe.batch_size < distributed.size:
            raise UserError(
                f"a batch of {recipe.batch_size} cannot be shared by {distributed.size} processes: raise "
                "train.batch_size, which counts the images of all, or start fewer"
            )
        self.recipe, self.distributed, self.device = recipe, distributed, distributed.device
        self.crops, self.val_images, self.meta = task.crops, task.val_images, task.meta
        self.workers = distributed.loading_processes(workers)
        self.loader: Iterator[tuple[Tensor, Tensor]] | None = None
        torch.manual_seed(recipe.seed)  # of all devices
        self.names = [info.name for info in self.meta.classes]
        self.model = self.meta.build()
        if start is not None:
            start.load_into(self.model, self.names, recipe.shrink)
        self.train_step = TrainStep(self.model, self.meta.mean, self.meta.std, recipe, distributed)

        self.step = 0  # iterations done
        self.plan = Plan.make(self.val_images.samples, self.meta.zoom, recipe)
        if self.plan.others:
            some, everything = len(self.plan.watched), len(self.val_images.samples)
            log.info("validating on %d of %d images, and on all at the end", some, everything)
        self.losses: list[list[float]] = []  # of each iteration: total, main, auxiliary
        self.unread: list[Tensor] = []  # the losses of the latest iterations, still on the device
        self.history: list[HistoryRow] = []
        self.chosen_step, self.best_miou = 0, -1.0  # of the images that each validation has
        self.best_weights: dict[str, Tensor] = {}
        self.warnings: dict[str, str] = {}
        self.pace = Pace(helpers=self.workers)
        self.training_seconds = 0.0  # spent in the iterations since the last validation
        self.seconds = 0.0  # spent before `since`
        self.since = self.iteration_began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds of work since the start, interruptions not counted."""
        return self.seconds + time.monotonic() - self.since

    def finish(
        self, workdir: Path, fingerprint: str, checkpoint_seconds: float, on_validation: OnValidation | None = None
    ) -> None:
        """Resume from the checkpoint in `workdir` if there is one, and train to the end."""
        first, steps = self.distributed.first, self.recipe.steps
        if state := self.distributed.from_first(lambda: load_checkpoint(workdir, fingerprint)):
            self.load_state(state)
            if self.step < steps:
                log.info("resuming at iteration %d of %d", self.step, steps)
            else:
                log.info("this training was finished before: its result is reused")
        while self.step < steps or self.validation_due:
            saved = time.monotonic()
            for images, masks in () if self.validation_due else self.batches_to_validation():
                self.iterate(images, masks)
                if first and time.monotonic() - saved >= checkpoint_seconds:
                    save_checkpoint(workdir, fingerprint, self.state())
                    saved = self.iteration_began = time.monotonic()
            row = self.validate()
            log.info(
                "iteration %d of %d: loss %.4f, validation mIoU %s, %.1f images/s",
                *(row.step, steps, row.loss, format_value(row.val_miou, "share"), row.images_per_second),
            )
            if on_validation is not None:
                on_validation(row)
            if first:
                save_checkpoint(workdir, fingerprint, self.state())

    @property
    def validation_due(self) -> bool:
        """Whether this iteration's validation is still to come: the process may be killed in between."""
        validated = self.history[-1].step if self.history else 0
        return self.step > validated and (self.recipe.steps - self.step) % self.plan.interval == 0

    def batches_to_validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the batches up to the next validation; the last one is after the last step."""
        left = (self.recipe.steps - self.step) % self.plan.interval or self.plan.interval
        if self.loader is None or not self.workers:
            # Loading processes go on through validations: starting them takes seconds.
            count = self.recipe.steps - self.step if self.workers else left
            self.loader = iter(load_batches(self.crops, self._batches(count), self.workers))
        self.iteration_began = time.monotonic()
        return progress(
            islice(self.loader, left),
            left,
            f"training, iteration {self.step + 1} to {self.step + left} of {self.recipe.steps}",
        )

    def _batches(self, count: int) -> Iterator[list[int]]:
        """The places in the series of this process's share of each of the next `count` batches."""
        size = self.recipe.batch_size
        for step in range(self.step, self.step + count):
            yield self.distributed.share(range(step * size, (step + 1) * size))

    def iterate(self, images: Tensor, masks: Tensor) -> None:
        """One iteration on a share of a batch: images uint8 [N, H, W, 3], masks uint8 [N, H, W]."""
        losses = self.train_step.losses(images, masks)
        self.unread.append(losses.detach().clone())  # a CUDA graph's outputs are overwritten by the next iteration
        on_cpu = self.device.type == "cpu"
        if on_cpu or len(self.unread) == FLUSH:
            self.read_losses()  # on the CPU before `backward`: a flow that is not finite makes PyTorch's crash
        self.train_step.update(losses[0], self.step)
        self.step += 1
        now = time.monotonic()
        if on_cpu:  # a GPU works behind the program's back
            self.warn("pace", self.pace.add(now - self.iteration_began))
        self.training_seconds += now - self.iteration_began
        self.iteration_began = now

    def warn(self, what: str, line: str | None) -> None:
        """Say a line about `what`, once in a training."""
        if line is not None and what not in self.warnings:
            self.warnings[what] = line
            log.warning("%s", line)

    def read_losses(self) -> None:
        """Bring the latest losses from the device; raises `JobError` where one is not finite."""
        if self.unread:
            latest = torch.stack(self.unread).tolist()
            for step, values in enumerate(latest, start=len(self.losses)):
                if not math.isfinite(values[0]):
                    raise JobError(
                        f"training diverged: the loss is {values[0]} in iteration {step + 1}, at learning rate "
                        f"{self.recipe.rate(step):.3g}; lower train.learning_rate or raise train.warmup_steps"
                    )
            self.losses += latest
            self.unread.clear()

    def validate(self) -> HistoryRow:
        """Score the candidate, and keep its weights if they are the best so far (the earlier of equals)."""
        self.read_losses()  # which waits for a GPU, whose time is the iterations'
        self.training_seconds += time.monotonic() - self.iteration_began
        last = self.step == self.recipe.steps
        watched = self._confusion(self.plan.watched)
        scores = Scores.from_confusion(watched, self.names)
        miou = scores.miou  # of the images that other validations had too
        if last and self.plan.others:
            scores = Scores.from_confusion(watched + self._confusion(self.plan.others), self.names)
        since = self.history[-1].step if self.history else 0
        means = torch.tensor(self.losses[since:], dtype=torch.float64).mean(0).tolist()
        row = HistoryRow(
            step=self.step,
            learning_rate=self.recipe.rate(self.step - 1),
            loss=means[0],
            main_loss=means[1],
            auxiliary_loss=means[2],
            val_miou=scores.miou,
            val_iou=scores.iou,
            images_per_second=(self.step - since) * self.recipe.batch_size / max(self.training_seconds, 1e-9),
            seconds=self.elapsed,
        )
        # The last weights rather than the best of a noisy validation split (nnU-Net), unless something broke them.
        if miou > self.best_miou or (last and miou >= BROKEN * self.best_miou):
            self.chosen_step, self.best_miou = row.step, miou
            self.best_weights = {
                name: value.detach().cpu().clone() for name, value in self.train_step.candidate.state_dict().items()
            }
        self.history.append(row)
        if line := nothing_found(row.val_iou, self.step, self.recipe.steps):
            self.warn("nothing found", line)
        else:
            self.warnings.pop("nothing found", None)  # it came later
        self.training_seconds = 0.0
        return row

    def _confusion(self, indices: Sequence[int]) -> Confusion:
        """The confusion matrix of the candidate on validation images."""
        step, meta = self.train_step, self.meta
        return validate(
            *(step.candidate, self.val_images, indices, len(self.names), step.mean, step.std, meta.zoom),
            *(self.recipe.batch_size, self.distributed),
        )

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, in types that `torch.load(weights_only=True)` reads."""
        self.read_losses()
        return {
            **self.train_step.state(),
            "random": torch.get_rng_state(),  # crops have seeds of their own; layers may draw from it
            "step": self.step,
            "losses": torch.tensor(self.losses, dtype=torch.float64).reshape(-1, 3),
            "history": [asdict(row) for row in self.history],
            "best": (self.chosen_step, self.best_miou, self.best_weights),
            "warnings": self.warnings,
            "seconds": (self.training_seconds, self.elapsed),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.train_step.load_state(state)
        torch.set_rng_state(state["random"])
        self.step = state["step"]
        self.losses = state["losses"].tolist()
        self.history = [HistoryRow(**row) for row in state["history"]]
        self.chosen_step, self.best_miou, self.best_weights = state["best"]
        self.warnings = state["warnings"]
        self.training_seconds, self.seconds = state["seconds"]
        self.since = self.iteration_began = time.monotonic()

    def result(self) -> TrainResult:
        """The outcome, with the chosen weights in the network."""
        model = self.model.cpu()
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        model.load_state_dict(self.best_weights)
        return TrainResult(
            model=model.eval(),
            meta=self.meta,
            chosen_step=self.chosen_step,
            val_miou=next(row.val_miou for row in self.history if row.step == self.chosen_step),
            history=tuple(self.history),
            step_losses=tuple(total for total, _, _ in self.losses),
            seconds=self.elapsed,
            device=torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            processes=self.distributed.size,
            warnings=tuple(self.warnings.values()),
        )
