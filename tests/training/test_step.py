"""One iteration: that it never waits for a device, averages as it says, and computes the same when compiled."""

import ctypes
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dbrnet.errors import UserError
from dbrnet.models.dbrnet import DBRNet
from dbrnet.training.distributed import DistributedContext
from dbrnet.training.loss import make_loss
from dbrnet.training.recipe import LossName, Recipe
from dbrnet.training.step import TrainStep, WeightAverage
from tests.training.conftest import ALONE, RECIPE

SIDE = 64


def batches(count: int, size: int = 2) -> list[tuple[Tensor, Tensor]]:
    """Noise with dark squares, which are class 1, and a border that is ignored."""
    rng = np.random.default_rng(0)
    made = []
    for _ in range(count):
        images = rng.integers(90, 140, (size, SIDE, SIDE, 3), dtype=np.uint8)
        masks = np.zeros((size, SIDE, SIDE), np.uint8)
        for image, mask in zip(images, masks, strict=True):
            top, left = rng.integers(0, SIDE - 24, 2)
            image[top : top + 24, left : left + 24], mask[top : top + 24, left : left + 24] = 20, 1
        masks[:, :4] = 255
        made.append((torch.from_numpy(images), torch.from_numpy(masks)))
    return made


def new_step(**changes: object) -> TrainStep:
    torch.manual_seed(0)
    recipe = RECIPE.model_copy(update={"batch_size": 2, "learning_rate": 0.02, "ema_decay": 0.9} | changes)
    return TrainStep(DBRNet(3), (0.45,) * 3, (0.1,) * 3, recipe, ALONE)


def train(step: TrainStep, count: int) -> list[list[float]]:
    found = []
    for index, batch in enumerate(batches(count)):
        losses = step.losses(*batch)
        step.update(losses[0], index)
        found.append(losses.tolist())
    return found


class ReadBacks(TorchDispatchMode):
    """Notes what makes a GPU wait: a value brought to the program, or a shape that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if any(name in str(function) for name in ("_local_scalar_dense", "nonzero", "masked_select", "unique")):
            self.found.append(str(function))
        boolean = [value for value in args[1] if value is not None] if "aten.index.Tensor" in str(function) else []
        self.found += [str(function) for value in boolean if value.dtype == torch.bool]
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("loss", ["ohem", "ce", "ce+dice", "hierarchical"])
def test_an_iteration_reads_nothing_back(loss: LossName) -> None:
    step, (batch,) = new_step(loss=loss), batches(1)
    with ReadBacks() as noted:
        step.update(step.losses(*batch)[0], 0)
    assert noted.found == []


def test_reading_back_is_noticed() -> None:
    values = torch.arange(4.0)
    for read in (lambda: values[values > 1], lambda: values.sum().item(), lambda: bool(values.any())):
        with ReadBacks() as noted:
            read()
        assert noted.found


@pytest.mark.parametrize("loss", ["ohem", "ce", "ce+dice", "hierarchical"])
def test_no_shape_of_a_loss_depends_on_values(loss: LossName) -> None:
    """Tensors on the meta device have none."""
    logits = torch.empty(2, 3, 8, 8, device="meta", requires_grad=True)
    make_loss(loss, 0.7, ALONE, 2)(logits, torch.empty(2, 8, 8, dtype=torch.long, device="meta")).backward()
    assert logits.grad is not None
    assert logits.grad.shape == logits.shape


def test_weights_are_averaged_with_the_counts_of_batches() -> None:
    torch.manual_seed(0)
    model = DBRNet(3)
    average = WeightAverage(model, 0.95)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    for step in range(3):
        for value in model.state_dict().values():
            value.add_(1)
        average.update(step)
        share = min(0.95, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            expected[name] = share * expected[name] + (1 - share) * value if value.is_floating_point() else value
    for name, value in average.model.state_dict().items():
        torch.testing.assert_close(value, expected[name])


def test_a_step_starts_without_gradients_and_lowers_the_loss() -> None:
    step = new_step(loss="ce")
    found = train(step, 12)
    assert all(parameter.grad is None for parameter in step.model.parameters())
    assert found[-1][0] < 0.7 * found[0][0]


@pytest.mark.slow
def test_a_compiled_training_has_the_losses_of_an_eager_one() -> None:
    """Within a thousandth over three iterations, in which the network gets other gradients each time."""
    eager, compiled = (train(new_step(compile=each, loss="ohem"), 3) for each in (False, True))
    np.testing.assert_allclose(compiled, eager, rtol=1e-3)


def test_compiling_is_for_a_single_process() -> None:
    pair = DistributedContext(torch.device("cpu"), rank=0, size=2)
    recipe: Recipe = RECIPE.model_copy(update={"compile": True})
    with pytest.raises(UserError, match=r"train\.compile: true is for a single process"):
        TrainStep(DBRNet(3), (0.5,) * 3, (0.2,) * 3, recipe, pair)


FAULTS = """
import resource, sys, torch
from dbrnet.training.distributed import keep_memory
if sys.argv[1] == "keep":
    keep_memory()
def use():  # all alive together, as the maps that a backward pass needs
    [torch.empty(2**24).fill_(1.0) for _ in range(6)]
use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="the C library is not glibc")
def test_freed_memory_is_kept() -> None:
    faults = {}
    for word in ("keep", "return"):
        command = [sys.executable, "-c", FAULTS, word]
        faults[word] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults["keep"] < faults["return"] / 2
