"""The training recipe: every knob that decides the weights, and the learning rate that follows from them.

Light on purpose: `config` reads it to check params.yaml, and a command that trains nothing must not load PyTorch.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
)

from dbrnet.bounds import Fraction, OpenFraction, Seed, Size
from dbrnet.models import Switches

WARMUP_START = 0.1  # share of the base rate that warm-up starts from, as in the released code
POLY_POWER = 0.9  # as in the released code

Schedule = Literal["linear", "poly"]
LossName = Literal["ohem", "ce", "ce+dice", "hierarchical"]
Symmetries = Literal["none", "flips", "all"]
ScaleFactor = Annotated[float, Field(ge=0.05, le=20)]


def _factor_or_auto(given: object) -> object:
    try:
        return given if given == "auto" else float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ValueError("must be auto, or a factor such as 1.5") from None


ZOOM_KINDS = ("<factor>", "<word>")  # pydantic puts them into the location of an error
Zoom = Annotated[
    # Quarters: a size then follows in whole numbers.
    Annotated[float, Field(ge=0.25, le=8, multiple_of=0.25), Tag(ZOOM_KINDS[0])]
    | Annotated[Literal["auto"], Tag(ZOOM_KINDS[1])],
    Discriminator(lambda given: ZOOM_KINDS[given == "auto"]),
    BeforeValidator(_factor_or_auto),
]


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the first must not exceed the second")
    return bounds


class Recipe(BaseModel):
    """The fields that affect the weights, all of them and no others; params.yaml explains and sets each.

    Whatever a training may change between a kill and its resumption, such as the number of loading processes, is
    an argument of `loop.train` instead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: Seed
    start: str | None = Field(min_length=1)
    shrink: Fraction
    steps: int = Field(ge=1, le=10_000_000)
    batch_size: int = Field(ge=1, le=4096)
    zoom: Zoom
    normalise_exposure: bool
    crop: Size
    focus: Fraction
    paste: Fraction
    scale: Annotated[tuple[ScaleFactor, ScaleFactor], AfterValidator(_ascending)]
    symmetries: Symmetries
    photometric: bool
    learning_rate: float = Field(gt=0, le=10)
    momentum: Fraction
    weight_decay: float = Field(ge=0, le=1)
    schedule: Schedule
    warmup_steps: int = Field(ge=0, le=10_000_000)
    loss: LossName
    ohem_threshold: Fraction
    auxiliary_weight: float = Field(ge=0, le=100)
    ema_decay: OpenFraction | None
    amp: bool
    compile: bool
    model: Switches

    @field_validator("symmetries")
    @classmethod
    def _squares_turn(cls, symmetries: Symmetries, info: ValidationInfo) -> Symmetries:
        height, width = info.data.get("crop", (0, 0))
        if symmetries == "all" and height != width:
            raise ValueError("needs a square train.crop, which may be turned")
        return symmetries

    def fingerprint(self, content_hash: str, train: Mapping[str, str], val: Mapping[str, str], start: str = "") -> str:
        """SHA-256 of the recipe, the dataset's content hash, both splits (id -> group), and the start's own digest.

        A checkpoint belongs to one fingerprint. Fields that a subclass adds do not count.
        """
        recipe = self.model_dump(mode="json", include=set(Recipe.model_fields))
        content = json.dumps([recipe, content_hash, list(train.items()), list(val.items()), start], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def rate(self, step: int) -> float:
        """The learning rate of iteration `step` (from 0), from 0 to `learning_rate`.

        It rises linearly from a tenth of `learning_rate` during the warm-up. Then it falls and would reach 0 right
        after the last iteration: linearly (paper, section 3.2), or with the power 0.9 ("poly", the released code).
        """
        if step < self.warmup_steps:
            return self.learning_rate * (WARMUP_START + (1 - WARMUP_START) * step / self.warmup_steps)
        left = max(0.0, (self.steps - step) / max(1, self.steps - self.warmup_steps))
        return self.learning_rate * left ** (1.0 if self.schedule == "linear" else POLY_POWER)
