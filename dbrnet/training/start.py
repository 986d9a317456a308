"""The weights that a training starts from: a network that has seen defects finds new ones sooner.

They are matched by name and shape, those of a class by the class's name. So the start may have other classes.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import load, save
from torch import Tensor

from dbrnet.errors import UserError
from dbrnet.files import write_atomically
from dbrnet.models.dbrnet import DBRNet
from dbrnet.records import PretrainRecord

log = logging.getLogger(__name__)

GENERATED = Path(__file__).with_name("generated") / PretrainRecord.WEIGHTS  # a folder that `dbrnet pretrain` wrote
LEAST_SHARE = 0.5  # of the network's weights that a start must fill
HEADS = ("head.body.5", "auxiliary_head.body.5")  # the last layers: a row a class

# The modules of DDRNet-23-slim, as its authors name them, and of DBRNet that hold the same layers in the same order.
DDRNET = {
    "conv1.": "stem.",
    "layer1.": "stage1.",
    "layer2.": "stage2.",
    "layer3.": "semantic3.",
    "layer4.": "semantic4.",
    "layer5.": "semantic5.",
    "layer3_.": "detail3.",  # the first of its two blocks
    "layer4_.": "detail4.",
    "layer5_.": "detail5.",
    "compression3.": "fusion.compress.",
    "down3.": "down3.",
    "down4.": "down4.",
    "spp.scale0.": "context.identity.",
    "spp.scale1.": "context.pools.0.",
    "spp.scale2.": "context.pools.1.",
    "spp.scale3.": "context.pools.2.",
    "spp.scale4.": "context.whole.",
    "spp.process1.": "context.processes.0.",
    "spp.process2.": "context.processes.1.",
    "spp.process3.": "context.processes.2.",
    "spp.process4.": "context.processes.3.",
    "spp.compression.": "context.join.",
    "spp.shortcut.": "context.shortcut.",
    "final_layer.": "head.",
    "seghead_extra.": "auxiliary_head.",
}
DDRNET_MARK = "layer3_.0.conv1.weight"


def save_weights(path: Path, model: DBRNet) -> None:
    """Write the network's weights in half precision, without its last layers, which know the classes alone."""
    weights = {
        name: value.half().contiguous() if value.is_floating_point() else value
        for name, value in model.state_dict().items()
        if name.rsplit(".", 1)[0] not in HEADS
    }
    write_atomically(path, save(weights))


@dataclass(frozen=True)
class Start:
    """Weights by name, the names of their classes by id where they are known, and where they come from."""

    source: str
    digest: str  # SHA-256 of the file
    weights: Mapping[str, Tensor]
    classes: tuple[str, ...] = ()
    seen: frozenset[str] = frozenset()  # ids of images that they were trained on, as far as is known

    @classmethod
    def read(cls, path: Path, source: str, seen: frozenset[str] = frozenset()) -> Self:
        """Read a model.pt, a safetensors file, or a checkpoint of DDRNet-23-slim; `UserError` where it is none.

        Only tensors and plain values are unpickled, so a hostile file runs no code.
        """
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise UserError(f"train.start: {path} does not exist") from None
        classes: tuple[str, ...] = ()
        try:
            if path.suffix == ".safetensors":
                weights = load(content)
            else:
                held = torch.load(path, map_location="cpu", weights_only=True)
                weights = held.get("state_dict", held)
                classes = tuple(one["name"] for one in held.get("classes", ()))
            weights = {name.removeprefix("module.").removeprefix("model."): weights[name] for name in weights}
            if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
                raise ValueError("no tensors")
        except OSError:
            raise
        except Exception:  # foreign bytes make the unpickler raise nearly anything
            raise UserError(f"train.start: {path} is broken or holds no weights") from None
        return cls(source, hashlib.sha256(content).hexdigest(), weights, classes, seen)

    def load_into(self, model: DBRNet, names: Sequence[str], shrink: float = 1.0) -> None:
        """Fill `model`, whose classes are `names`, with the weights that fit; say how many did.

        Where `shrink` is below 1, parameters get that share of the start and the rest of their own random values
        (shrink and perturb, Ash and Adams, 2020), so that a warm start generalises like a fresh one.
        Raises `UserError` where less than half of its parameters are filled.
        """
        own = {name: value.clone() for name, value in model.state_dict().items()}  # the model stays whole if refused
        filled = 0
        parameters = dict(model.named_parameters())
        weights = _from_ddrnet(self.weights, own) if DDRNET_MARK in self.weights else self.weights
        for name, value in weights.items():
            mine = own.get(name)
            if mine is None:
                continue
            if name.rsplit(".", 1)[0] in HEADS:
                rows = [(names.index(known), row) for row, known in enumerate(self.classes) if known in names]
                fits = value.shape[1:] == mine.shape[1:] and len(self.classes) == len(value)
                for here, there in rows if fits else ():
                    mine[here] = value[there]
                    filled += mine[here].numel()
            elif value.shape == mine.shape:
                mine.copy_(value)
                filled += mine.numel() if name in parameters else 0
        share = filled / sum(value.numel() for value in parameters.values())
        if share < LEAST_SHARE:
            raise UserError(
                f"train.start: {self.source} fits {share:.0%} of the network's weights, and at least {LEAST_SHARE:.0%} "
                "are needed; give weights of this network (train.model), or null"
            )
        for name, value in parameters.items():
            own[name].lerp_(value.detach(), 1 - shrink)
        model.load_state_dict(own)
        log.info("starting from %s: %.0f %% of the weights", self.source, 100 * share)


def _from_ddrnet(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of the modules that DBRNet has too, by DBRNet's names."""
    renamed: dict[str, Tensor] = {}
    for their_module, own_module in DDRNET.items():
        values = [value for name, value in theirs.items() if name.startswith(their_module)]
        names = [name for name in own if name.startswith(own_module) and name.rsplit(".", 1)[0] not in HEADS]
        if len(values) >= len(names) and all(
            value.shape == own[name].shape for name, value in zip(names, values, strict=False)
        ):
            renamed |= dict(zip(names, values, strict=False))
    return renamed
