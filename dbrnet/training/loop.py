"""The training loop: resumable at any iteration; the last averaged weights are the result."""

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dbrnet.bounds import MINIMUM_SIDE
from dbrnet.data.dataset import Dataset
from dbrnet.data.loading import Images, normalise, zoomed_size
from dbrnet.errors import JobError, UserError
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta
from dbrnet.progress import progress
from dbrnet.training.augmentation import Augmentation
from dbrnet.training.checkpoint import load_checkpoint, save_checkpoint
from dbrnet.training.crops import Crops, Series, load_batches
from dbrnet.training.distributed import DistributedContext, join_processes
from dbrnet.training.loss import make_loss
from dbrnet.training.recipe import Recipe
from dbrnet.training.sampling import Sampler
from dbrnet.training.start import Start
from dbrnet.training.validation import ImagesLike, validate
from dbrnet.training.watch import Pace, nothing_found
from dbrnet.training.zoom import choose_zoom

log = logging.getLogger(__name__)


VALIDATIONS = 20  # of a training, at most
VALIDATION_SHARE = 0.1  # of a training's time, at most
FORWARD_SHARE = 1 / 3  # of an iteration's time a pixel, that a pixel of the validation costs
FLUSH = 20  # iterations between two looks at the loss, each of which makes a GPU wait
BROKEN = 0.8  # the last weights are not used if they reach less than this share of the best validation mIoU


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


@dataclass(frozen=True)
class Task:
    """What a network learns: the crops that it sees, and the images that it is scored on."""

    crops: Series
    val_images: ImagesLike
    meta: ModelMeta


def train(
    dataset: Dataset,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    recipe: Recipe,
    workdir: Path,
    *,
    workers: int,
    checkpoint_seconds: float,
    start: Start | None = None,
    on_validation: OnValidation | None = None,
) -> TrainResult:
    """Train on a dataset, on the GPU if there is one, else on the CPU; resume from the checkpoint in `workdir`.

    On the CPU the weights depend on data, recipe, processor and number of threads alone, bit for bit, however often
    the run was killed and restarted. On a GPU speed goes first: cuDNN picks its fastest algorithms, and runs differ in
    the last digits. Neither `workers` (loading processes) nor `checkpoint_seconds` affects the weights.

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
    fingerprint = recipe.fingerprint(dataset.card.content_hash, train_ids, val_ids, start.digest if start else "")
    with join_processes() as distributed:
        task = dataset_task(dataset, train_ids, val_ids, recipe, distributed, warm=workers > 0)
        run = Run(task, recipe, distributed, workers=workers, start=start)
        run.finish(workdir, fingerprint, checkpoint_seconds, on_validation)
        return run.result()


def dataset_task(
    dataset: Dataset,
    train_ids: Sequence[str],
    val_ids: Sequence[str],
    recipe: Recipe,
    distributed: DistributedContext,
    *,
    warm: bool,
) -> Task:
    """A dataset's splits as a task; `warm`: the images are decoded before loading processes are started."""
    train_images, val_images = (
        Images(dataset, ids, normalised=recipe.normalise_exposure) for ids in (train_ids, val_ids)
    )
    if warm:
        train_images.warm()
    mean, std, zoom = distributed.from_first(
        lambda: (*train_images.statistics(), choose_zoom(train_images) if recipe.zoom == "auto" else recipe.zoom)
    )
    smallest = min(min(sample.height, sample.width) for sample in (*train_images.samples, *val_images.samples))
    if round(smallest * zoom) < MINIMUM_SIDE:
        raise UserError(
            f"train.zoom {zoom:g} makes an image of {smallest} pixels smaller than the {MINIMUM_SIDE} that the network "
            "needs; raise it"
        )
    crops = Crops(
        train_images,
        Sampler(train_images.samples, seed=recipe.seed, focus=recipe.focus, paste=recipe.paste),
        Augmentation(recipe.symmetries, photometric=recipe.photometric),
        size=recipe.crop,
        zoom=zoom,
        scale=recipe.scale,
        fill=tuple(255 * value for value in mean),
        classes=len(dataset.card.classes),
        seed=recipe.seed,
    )
    meta = ModelMeta(
        classes=dataset.card.classes,
        model=recipe.model,
        mean=mean,
        std=std,
        zoom=zoom,
        normalised=recipe.normalise_exposure,
    )
    return Task(crops, val_images, meta)


class Run:
    """The state of one training, and the operations that change it."""

    def __init__(
        self, task: Task, recipe: Recipe, distributed: DistributedContext, *, workers: int, start: Start | None = None
    ) -> None:
        if recipe.batch_size < distributed.size:
            raise UserError(
                f"a batch of {recipe.batch_size} cannot be shared by {distributed.size} processes: raise "
                "train.batch_size, which counts the images of all, or start fewer"
            )
        self.recipe, self.workers = recipe, workers
        self.distributed, self.device = distributed, distributed.device
        self.crops, self.val_images, self.meta = task.crops, task.val_images, task.meta
        self.mean, self.std = (torch.tensor(values, device=self.device) for values in (self.meta.mean, self.meta.std))
        torch.manual_seed(recipe.seed)  # of all devices
        self.names = [info.name for info in self.meta.classes]
        self._build_network(start)

        self.step = 0  # iterations done
        self.interval = self._validation_interval()
        self.losses: list[list[float]] = []  # of each iteration: total, main, auxiliary
        self.unread: list[Tensor] = []  # the losses of the latest iterations, still on the device
        self.history: list[HistoryRow] = []
        self.chosen_step, self.best_miou = 0, -1.0
        self.best_weights: dict[str, Tensor] = {}
        self.warnings: dict[str, str] = {}
        self.pace = Pace()
        self.training_seconds = 0.0  # spent in the iterations since the last validation
        self.seconds = 0.0  # spent before `since`
        self.since = self.iteration_began = time.monotonic()

    def _build_network(self, start: Start | None) -> None:
        """The network, its average, the loss and the optimizer."""
        recipe = self.recipe
        torch.backends.cudnn.benchmark = True
        self.model = self.meta.build()
        if start is not None:
            start.load_into(self.model, self.names, recipe.shrink)
        self.distributed.synchronise_batch_norms(self.model)
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = self.distributed.parallel(self.model)  # the model as it is trained
        self.loss = make_loss(recipe.loss, recipe.ohem_threshold, self.distributed)
        # Decay on all parameters, batch norms too, as in the released code.
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.half = recipe.amp and computes_in_bfloat16(self.device)
        self.stateful: dict[str, Any] = {"model": self.model, "optimizer": self.optimizer}
        self.average: WeightAverage | None = None
        if recipe.ema_decay is not None:
            self.average = WeightAverage(self.model, recipe.ema_decay)
            self.stateful["average"] = self.average.model

    @property
    def candidate(self) -> DBRNet:
        """The network that is scored and kept: the average where there is one."""
        return self.model if self.average is None else self.average.model

    def _validation_interval(self) -> int:
        """Iterations between two validations: few enough of these that they take no more than their share of time."""
        sizes = (zoomed_size(sample.height, sample.width, self.meta.zoom) for sample in self.val_images.samples)
        cost = FORWARD_SHARE * sum(height * width for height, width in sizes)
        iteration = self.recipe.batch_size * math.prod(self.recipe.crop)
        return max(math.ceil(self.recipe.steps / VALIDATIONS), math.ceil(cost / iteration / VALIDATION_SHARE))

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
                    saved = time.monotonic()
            row = self.validate()
            log.info(
                "iteration %d of %d: loss %.4f, validation mIoU %.4f (best %.4f), %.1f images/s",
                *(row.step, steps, row.loss, row.val_miou, self.best_miou, row.images_per_second),
            )
            if on_validation is not None:
                on_validation(row)
            if first:
                save_checkpoint(workdir, fingerprint, self.state())

    @property
    def validation_due(self) -> bool:
        """Whether this iteration's validation is still to come: the process may be killed in between."""
        validated = self.history[-1].step if self.history else 0
        return self.step > validated and (self.recipe.steps - self.step) % self.interval == 0

    def batches_to_validation(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of the batches up to the next validation; the last one is after the last step."""
        left = (self.recipe.steps - self.step) % self.interval or self.interval
        size = self.recipe.batch_size
        batches = [
            self.distributed.share(range(step * size, (step + 1) * size)) for step in range(self.step, self.step + left)
        ]
        loader = load_batches(self.crops, batches, self.workers)
        self.iteration_began = time.monotonic()
        return progress(
            loader, left, f"training, iteration {self.step + 1} to {self.step + left} of {self.recipe.steps}"
        )

    def iterate(self, images: Tensor, masks: Tensor) -> None:
        """One iteration on a share of a batch: images uint8 [N, H, W, 3], masks uint8 [N, H, W]."""
        rate = self.recipe.rate(self.step)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate
        inputs = normalise(images.to(self.device, non_blocking=True), self.mean, self.std)
        target = masks.to(self.device, non_blocking=True).long()
        self.model.train()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            logits, auxiliary_logits = self.network(inputs)
        main, auxiliary = self.loss(logits, target), self.loss(auxiliary_logits, target)
        loss = main + self.recipe.auxiliary_weight * auxiliary
        self.unread.append(torch.stack([loss, main, auxiliary]).detach())
        if self.device.type == "cpu" or len(self.unread) == FLUSH:
            self.read_losses()  # on the CPU before `backward`: a flow that is not finite makes PyTorch's crash
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, self.step)
        self.step += 1
        now = time.monotonic()
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
        self.read_losses()
        scores = validate(
            self.candidate,
            self.val_images,
            self.names,
            self.mean,
            self.std,
            self.meta.zoom,
            self.recipe.batch_size,
            self.distributed,
        )
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
        last = self.step == self.recipe.steps
        # The last weights rather than the best of a noisy validation split (nnU-Net), unless something broke them.
        if row.val_miou > self.best_miou or (last and row.val_miou >= BROKEN * self.best_miou):
            self.chosen_step, self.best_miou = row.step, row.val_miou
            self.best_weights = {
                name: value.detach().cpu().clone() for name, value in self.candidate.state_dict().items()
            }
        self.history.append(row)
        self.warn("nothing found", nothing_found(row.val_iou, self.step, self.recipe.steps))
        self.training_seconds = 0.0
        return row

    def state(self) -> dict[str, Any]:
        """All that a resumed run needs, in types that `torch.load(weights_only=True)` reads."""
        self.read_losses()
        return {
            **{name: holder.state_dict() for name, holder in self.stateful.items()},
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
        for name, holder in self.stateful.items():
            holder.load_state_dict(state[name])
        torch.set_rng_state(state["random"])
        self.step = state["step"]
        self.losses = state["losses"].tolist()
        self.history = [HistoryRow(**row) for row in state["history"]]
        self.chosen_step, self.best_miou, self.best_weights = state["best"]
        self.warnings = state["warnings"]
        self.training_seconds, self.seconds = state["seconds"]
        self.since = time.monotonic()

    def result(self) -> TrainResult:
        """The outcome, with the chosen weights in the network."""
        model = self.model.cpu()
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        model.load_state_dict(self.best_weights)
        return TrainResult(
            model=model.eval(),
            meta=self.meta,
            chosen_step=self.chosen_step,
            val_miou=self.best_miou,
            history=tuple(self.history),
            step_losses=tuple(total for total, _, _ in self.losses),
            seconds=self.elapsed,
            device=torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu",
            processes=self.distributed.size,
            warnings=tuple(self.warnings.values()),
        )


class WeightAverage:
    """The exponential moving average of a network's weights and batch norms, in a copy of it.

    Early on it follows faster, so that the random weights of the start do not linger.
    """

    def __init__(self, model: DBRNet, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: DBRNet, step: int) -> None:
        """Move towards `model` after iteration `step` (from 0)."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        own, other = list(self.model.state_dict().values()), list(model.state_dict().values())
        floats = [index for index, value in enumerate(own) if value.is_floating_point()]
        torch._foreach_lerp_([own[index] for index in floats], [other[index] for index in floats], weight)
        for mine, theirs in zip(own, other, strict=True):
            if not mine.is_floating_point():
                mine.copy_(theirs)


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
