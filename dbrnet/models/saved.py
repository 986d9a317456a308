"""A trained model in one file: the weights, and the description needed to use them."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch

from dbrnet.data.dataset import ClassInfo
from dbrnet.errors import UserError
from dbrnet.files import write_atomically
from dbrnet.models.dbrnet import DBRNet

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ModelMeta:
    """The description of a network's weights: the classes, the network's switches, and the normalisation."""

    classes: tuple[ClassInfo, ...]  # by id; 0 is the background
    lfem: bool
    affm: bool
    dcppm: bool
    mean: Triple  # of the RGB pixels / 255
    std: Triple
    image_size: tuple[int, int] | None  # height and width that images are resized to; None: their own
    normalised: bool  # whether each image's exposure is normalised first

    def build(self) -> DBRNet:
        """A new network of this description, with fresh weights from torch's generator."""
        return DBRNet(len(self.classes), lfem=self.lfem, affm=self.affm, dcppm=self.dcppm)

    def to_content(self) -> dict[str, Any]:
        """The description as plain values, which `torch.load(weights_only=True)` reads."""
        return {
            "classes": [{"name": info.name, "color": list(info.color)} for info in self.classes],
            "model": {"lfem": self.lfem, "affm": self.affm, "dcppm": self.dcppm},
            "mean": list(self.mean),
            "std": list(self.std),
            "image_size": None if self.image_size is None else list(self.image_size),
            "normalised": self.normalised,
        }

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> Self:
        """Restore a `to_content`; a KeyError, TypeError or ValueError where it is none."""
        switches, size = content["model"], content["image_size"]
        mean, std = ((float(r), float(g), float(b)) for r, g, b in (content["mean"], content["std"]))
        classes = []
        for info in content["classes"]:
            red, green, blue = info["color"]
            classes.append(ClassInfo(str(info["name"]), (int(red), int(green), int(blue))))
        return cls(
            classes=tuple(classes),
            lfem=bool(switches["lfem"]),
            affm=bool(switches["affm"]),
            dcppm=bool(switches["dcppm"]),
            mean=mean,
            std=std,
            image_size=None if size is None else (int(size[0]), int(size[1])),
            normalised=bool(content["normalised"]),
        )


def save_model(path: Path, model: DBRNet, meta: ModelMeta) -> None:
    """Write `model` and `meta` to `path`, all or nothing; the weights go to the file from any device."""
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"state_dict": weights, **meta.to_content()}, buffer)
    write_atomically(path, buffer.getvalue())


def load_model(path: Path) -> tuple[DBRNet, ModelMeta]:
    """Read what `save_model` wrote: the network in eval mode on the CPU, and its description.

    Only tensors and plain values are unpickled, so a hostile file runs no code. Torch's generator keeps its state.
    Raises `UserError` if the file is missing, broken, or no model file.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist or is no file; train a model first, or give the path of one")
    remedy = "give a model.pt that the train step wrote"
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error}); {remedy}") from None
    except Exception:  # foreign bytes make the unpickler raise nearly anything
        raise UserError(f"{path} is broken or no model file; {remedy}") from None
    try:
        meta = ModelMeta.from_content(content)
        # On the meta device no initial weights are drawn, only to be replaced.
        with torch.device("meta"):
            model = meta.build()
        weights = content["state_dict"]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{path} is not a model file of this program; {remedy}") from None
    try:
        model.load_state_dict(weights, assign=True)
    except (RuntimeError, TypeError, AttributeError):
        raise UserError(f"{path} holds weights that do not fit the network it describes; {remedy}") from None
    return model.eval(), meta
