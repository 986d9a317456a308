"""Training by several processes, each with a share of every batch, as if it were one.

torchrun starts them: one per GPU, on one machine or several, or some on a CPU. For a single process everything
here does nothing.
"""

import ctypes
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
from dbrnet.provenance import available_cores

# A process that waits longer than this for another gives up. Waits are short, except for the first process: it
# measures the pixels and opens MLflow while the others wait.
TIMEOUT = timedelta(minutes=10)

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of malloc.h

Item = TypeVar("Item")


@dataclass(frozen=True)
class DistributedContext:
    """The processes that train together, as one of them sees it."""

    device: torch.device  # this process's own
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one process that writes."""
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's share of `items`; shares differ by one item at most."""
        return list(items[self.rank :: self.size])

    def loading_processes(self, asked: int | None) -> int:
        """How many load images for this process: as many as `asked`; None: its share of the cores beside a GPU, else 0.

        Where the network computes on the CPU, they would only take its cores.
        """
        if asked is not None:
            return asked
        return available_cores() // process_group().local_size if self.device.type == "cuda" else 0

    def sum(self, values: Tensor) -> Tensor:
        """The elementwise sum of all processes' `values`, which have one shape. Gradients flow through it.

        Every process computes the same from the sum, so its gradient comes back once per process. The mean over
        the processes that `DistributedDataParallel` takes cancels that.
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
        """The value of `make` (tensors and plain values), which is called on the first process only."""
        if self.size == 1:
            return make()
        values = [make() if self.first else None]
        dist.broadcast_object_list(values, 0, device=self.device)
        return values[0]

    def synchronise_batch_norms(self, model: nn.Module) -> None:
        """Make the model's batch norms normalise over the whole batch."""
        if self.size == 1:
            return
        for module in list(model.modules()):
            for name, child in module.named_children():
                if isinstance(child, BatchNorm):
                    setattr(module, name, SynchronisedBatchNorm(child, self))

    def parallel(self, model: nn.Module) -> nn.Module:
        """`model` (on this process's device), with gradients averaged over the processes."""
        if self.size == 1:
            return model
        return DistributedDataParallel(model, forward_sync_buffers=False)  # the batch norms agree already


@contextmanager
def join_processes() -> Iterator[DistributedContext]:
    """Join the other processes that torchrun started: by NCCL where there are GPUs, else by gloo.

    Raises `UserError` for fewer GPUs than processes, and `JobError` when another process is lost.
    """
    keep_memory()
    group = process_group()
    cuda = torch.cuda.is_available()
    if group.size == 1:
        yield DistributedContext(torch.device("cuda" if cuda else "cpu"))
        return
    if cuda and group.local_rank >= torch.cuda.device_count():
        raise UserError(
            f"torchrun starts more processes than this machine has GPUs, {torch.cuda.device_count()}; "
            "give it --nproc-per-node gpu"
        )
    device = torch.device("cuda", group.local_rank) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("nccl" if cuda else "gloo", timeout=TIMEOUT)
        yield DistributedContext(device, group.rank, group.size)
        dist.destroy_process_group()
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise JobError(
                "another process of this training ended or does not answer; start the same command again, "
                "and it goes on from the checkpoint"
            ) from error
        raise


def keep_memory() -> None:
    """Make the C library keep the memory that this process frees, which a training asks for again at once.

    It would return each large map to the system, and page it in anew: a tenth to a sixth of an iteration on a CPU.
    Only glibc can be told so. (MALLOC_TRIM_THRESHOLD_ and MALLOC_MMAP_MAX_ do the same from outside.)
    """
    try:
        library = ctypes.CDLL("libc.so.6")
        library.gnu_get_libc_version  # noqa: B018  # raises AttributeError elsewhere
    except (OSError, AttributeError):
        return
    library.mallopt(TRIM_THRESHOLD, 2**31 - 1)
    library.mallopt(MMAP_MAX, 0)


class SynchronisedBatchNorm(BatchNorm):
    """Batch norm over the images of all processes, equal to that of one process with all images.

    Forward, each process sends the sum and the square sum of each channel's pixels, and their number; backward,
    the gradients of these. Both go in float64, so that the variance is as exact as that of one process.

    PyTorch's own SyncBatchNorm runs on GPUs only. This one runs on both, so that the CPU tests cover the code
    that trains on GPUs. The weights keep the names of the batch norm that it replaces.
    """

    def __init__(self, norm: BatchNorm, distributed: DistributedContext) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, dtype=norm.weight.dtype)
        self.load_state_dict(norm.state_dict())
        self.distributed = distributed

    def forward(self, x: Tensor) -> Tensor:
        """Normalise [N, C, H, W], this process's share of the batch."""
        if not self.training:
            return super().forward(x)
        precise = x.to(torch.promote_types(x.dtype, torch.float32))
        variance, mean = torch.var_mean(precise, (0, 2, 3), unbiased=False)
        variance, mean = variance.double(), mean.double()
        moments = torch.cat([mean, variance + mean.square(), mean.new_ones(1)])
        total = self.distributed.sum(moments * (x.numel() // self.num_features))
        mean, square = total[:-1].div(total[-1]).chunk(2)
        variance = square - mean.square()
        # The running statistics take the unbiased variance, as those of `nn.BatchNorm2d` do.
        unbiased = variance.detach() * total[-1] / (total[-1] - 1)
        for running, value in ((self.running_mean, mean.detach()), (self.running_var, unbiased)):
            running = cast("Tensor", running)
            running.lerp_(value.to(running.dtype), cast("float", self.momentum))
        cast("Tensor", self.num_batches_tracked).add_(1)
        scale = self.weight * torch.rsqrt(variance + self.eps)
        centred = precise - mean.to(precise.dtype)[:, None, None]
        y = torch.addcmul(self.bias[:, None, None], centred, scale.to(precise.dtype)[:, None, None])
        return y.to(x.dtype)


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
