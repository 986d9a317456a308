"""Training by several processes, each with a share of every batch, as if it were one.

torchrun starts them: one a GPU, on one machine or several, or some on a CPU. Everything here does nothing
for a process that is alone.
"""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dbrnet.errors import JobError, UserError
from dbrnet.models.blocks import BatchNorm
from dbrnet.process_group import process_group

# A process that waits longer than this for another gives up. Waits are short, but for the first process's:
# it measures the pixels and opens MLflow while the others wait.
TIMEOUT = timedelta(minutes=10)

Item = TypeVar("Item")


@dataclass(frozen=True)
class World:
    """The processes that train together, as one of them sees it."""

    device: torch.device  # this process's own
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one process that writes."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's part of `items`; the parts differ by one item at most."""
        return list(items[self.rank :: self.size])

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum of all processes' `values`, which have one shape. Gradients flow through it.

        What follows is computed by every process alike, so each one's gradient comes back as often as there
        are processes; `DistributedDataParallel`'s mean over the processes takes that out again.
        """
        total: Tensor = _Sum.apply(values) if self.size > 1 else values
        return total

    def gather(self, values: Tensor) -> Tensor:
        """All processes' `values` [...], by rank: [size, ...], without a gradient."""
        if self.size == 1:
            return values.detach()[None]
        gathered = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(gathered, values.detach())
        return torch.stack(gathered)

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What `make` returns on the first process, where alone it is called: tensors and plain values."""
        if self.size == 1:
            return make()
        file = io.BytesIO()
        if self.first:
            torch.save(make(), file)
        length = torch.tensor([len(file.getvalue())], device=self.device)
        dist.broadcast(length, 0)
        content = torch.zeros(int(length.item()), dtype=torch.uint8)
        if self.first:
            content = torch.frombuffer(bytearray(file.getvalue()), dtype=torch.uint8)
        content = content.to(self.device)
        dist.broadcast(content, 0)
        return torch.load(io.BytesIO(content.cpu().numpy().tobytes()), map_location="cpu", weights_only=True)

    def synchronise(self, model: nn.Module) -> None:
        """Have the model's batch norms count the whole batch."""
        if self.size == 1:
            return
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, BatchNorm):
                    setattr(module, name, SynchronisedBatchNorm(child, self))

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model` (on this process's device), with gradients that are the mean over the processes."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, forward_sync_buffers=False)  # the batch norms agree already


@contextmanager
def joined() -> Iterator[World]:
    """Join the other processes that torchrun started: NCCL where there are GPUs, else gloo.

    Raises `UserError` for fewer GPUs than processes, and `JobError` when another process is lost.
    """
    place = process_group()
    cuda = torch.cuda.is_available()
    if place.size == 1:
        yield World(torch.device("cuda" if cuda else "cpu"))
        return
    if cuda and place.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"torchrun starts more processes than this machine has GPUs, {torch.cuda.device_count()}; "
            "give it --nproc-per-node gpu"
        )
    device = torch.device("cuda", place.local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
        yield World(device, place.rank, place.size)
        dist.destroy_process_group()
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise JobError(
                "another process of this training ended or does not answer; start the same command again, "
                "and it goes on from the checkpoint"
            ) from error
        raise


class SynchronisedBatchNorm(BatchNorm):
    """Batch norm over the images of all processes, which gives each what one process with all would have.

    Each process sends its pixels' sum and square sum a channel, and their number, once forward, and the
    gradients of these once backward, in float64: the variance is then as exact as that of one process.
    (PyTorch's own SyncBatchNorm is for GPUs only; this one runs on both, so that what is tested on a CPU is
    what trains on GPUs.) The weights have the names of the batch norm that it replaces.
    """

    def __init__(self, norm: BatchNorm, world: World) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, dtype=norm.weight.dtype)
        self.load_state_dict(norm.state_dict())
        self.world = world

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C, H, W], this process's share of the batch."""
        if not self.training:
            return super().forward(x)
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(precise, (0, 2, 3), unbiased=False)
        variance, mean = variance.double(), mean.double()
        moments = torch.cat([mean, variance + mean.square(), mean.new_ones(1)])
        total = self.world.sum(moments * (x.numel() // self.num_features))
        mean, square = total[:-1].div(total[-1]).chunk(2)
        variance = square - mean.square()
        self._follow(mean.detach(), variance.detach() * total[-1] / (total[-1] - 1))
        scale = self.weight * torch.rsqrt(variance + self.eps)
        centred = precise - mean.to(precise.dtype)[:, None, None]
        y = torch.addcmul(self.bias[:, None, None], centred, scale.to(precise.dtype)[:, None, None])
        return y.to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards the batch's, as `nn.BatchNorm2d` does."""
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            running = cast("Tensor", running)
            running.lerp_(value.to(running.dtype), cast("float", self.momentum))
        cast("Tensor", self.num_batches_tracked).add_(1)


class _Sum(torch.autograd.Function):
    """The sum over the processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _all_reduced(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _all_reduced(gradient)


def _all_reduced(values: Tensor) -> Tensor:
    total = values.detach().clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total
