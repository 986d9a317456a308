"""A trained model in one file: the weights, and the description needed to use them."""

import io
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter

from dbrnet.data.dataset import ClassInfo
from dbrnet.errors import UserError
from dbrnet.files import write_atomically
from dbrnet.models import Switches
from dbrnet.models.dbrnet import DBRNet

Triple = tuple[float, float, float]


@dataclass(frozen=True)
class ModelMeta:
    """The description of a network's weights: the classes, the network's switches, and the normalisation."""

    classes: tuple[ClassInfo, ...]  # by id; 0 is the background
    model: Switches
    mean: Triple  # of the RGB pixels / 255
    std: Triple
    zoom: float  # the factor, a multiple of a quarter, that images are resized by
    normalised: bool  # whether each image's exposure is normalised first

    def build(self) -> DBRNet:
        """A new network of this description, with fresh weights from torch's generator."""
        return DBRNet(len(self.classes), **self.model.model_dump())


_CONTENT = TypeAdapter(ModelMeta)  # to and from plain values, which `torch.load(weights_only=True)` reads


def save_model(path: Path, model: DBRNet, meta: ModelMeta) -> None:
    """Write `model` and `meta` to `path`, all or nothing; the weights go to the file from any device."""
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"state_dict": weights, **_CONTENT.dump_python(meta, mode="json")}, buffer)
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
        meta = _CONTENT.validate_python(content)
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
