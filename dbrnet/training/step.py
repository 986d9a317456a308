"""One iteration on the device: network, loss, optimizer and averaged weights. Nothing in it makes a GPU wait."""

import copy
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from dbrnet.data.loading import normalise
from dbrnet.errors import UserError
from dbrnet.models.dbrnet import DBRNet
from dbrnet.training.distributed import DistributedContext
from dbrnet.training.loss import make_loss
from dbrnet.training.recipe import Recipe

Triple = tuple[float, float, float]


class TrainStep:
    """A network on its device, and what changes it: first `losses` of a batch, then `update` with their total.

    Where the recipe asks for it, `losses` and its backward pass are compiled at the first batch, on a GPU into CUDA
    graphs. All batches have one shape.
    """

    def __init__(
        self, model: DBRNet, mean: Triple, std: Triple, recipe: Recipe, distributed: DistributedContext
    ) -> None:
        if recipe.compile and distributed.size > 1:
            raise UserError("train.compile: true is for a single process, and this one is of several; set it to false")
        torch.backends.cudnn.benchmark = True
        self.recipe, self.device = recipe, distributed.device
        self.mean, self.std = (torch.tensor(values, device=self.device) for values in (mean, std))  # of pixels / 255
        distributed.synchronise_batch_norms(model)
        self.model = model.train()
        self.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network = distributed.parallel(self.model)  # the model as it is trained
        self.loss = make_loss(recipe.loss, recipe.ohem_threshold, distributed, recipe.batch_size)
        # Decay on all parameters, batch norms too, as in the released code.
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.learning_rate,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=True,
        )
        self.half = recipe.amp and computes_in_bfloat16(self.device)
        self.average = None if recipe.ema_decay is None else WeightAverage(self.model, recipe.ema_decay)
        self._compute = self._losses
        if recipe.compile:
            # On a CPU the operations are traced and stay as they are: inductor's own kernels were no faster there and,
            # before a convolution, gave no gradient to a resized map (PyTorch 2.13; compare pytorch #185509).
            on_gpu = self.device.type == "cuda"
            self._compute = torch.compile(
                self._losses,
                dynamic=False,
                backend="inductor" if on_gpu else "aot_eager",
                mode="reduce-overhead" if on_gpu else None,
            )

    @property
    def candidate(self) -> DBRNet:
        """The network that is scored and kept: the average where there is one."""
        return self.model if self.average is None else self.average.model

    def losses(self, images: Tensor, masks: Tensor) -> Tensor:
        """The losses [3] (total, main, auxiliary) of images uint8 [N, H, W, 3] with masks uint8 [N, H, W]."""
        self.model.train()
        if self.recipe.compile:
            torch.compiler.cudagraph_mark_step_begin()
        return self._compute(images.to(self.device, non_blocking=True), masks.to(self.device, non_blocking=True))

    def _losses(self, images: Tensor, masks: Tensor) -> Tensor:
        inputs, target = normalise(images, self.mean, self.std), masks.long()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.half):
            logits, auxiliary_logits = self.network(inputs)
        main, auxiliary = self.loss(logits, target), self.loss(auxiliary_logits, target)
        return torch.stack([main + self.recipe.auxiliary_weight * auxiliary, main, auxiliary])

    def update(self, loss: Tensor, step: int) -> None:
        """Change the weights by the gradient of the total `loss` of iteration `step` (from 0)."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = self.recipe.rate(step)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()  # now: the next iteration may compute in the gradients' memory
        if self.average is not None:
            self.average.update(step)

    def state(self) -> dict[str, Any]:
        """The weights, the optimizer's state and the averaged weights."""
        return {name: holder.state_dict() for name, holder in self._holders().items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        for name, holder in self._holders().items():
            holder.load_state_dict(state[name])

    def _holders(self) -> dict[str, Any]:
        averaged = {} if self.average is None else {"average": self.average.model}
        return {"model": self.model, "optimizer": self.optimizer} | averaged


class WeightAverage:
    """The exponential moving average of a network's weights and batch norms, in a copy of it.

    Early on it follows faster, so that the random weights of the start do not linger.
    """

    def __init__(self, model: DBRNet, decay: float) -> None:
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        # Both networks keep their tensors, which only change their values.
        own, others = list(self.model.state_dict().values()), list(model.state_dict().values())
        floats = [value.is_floating_point() for value in own]
        counts = [not each for each in floats]
        self._floats = list(compress(own, floats)), list(compress(others, floats))
        self._counts = list(compress(own, counts)), list(compress(others, counts))

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the network after iteration `step` (from 0)."""
        torch._foreach_lerp_(self._floats[0], self._floats[1], 1 - min(self.decay, (1 + step) / (10 + step)))
        torch._foreach_copy_(self._counts[0], self._counts[1])


def computes_in_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16 faster than in float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
