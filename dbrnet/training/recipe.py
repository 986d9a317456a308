"""What a training run is made of, and the fingerprint that ties a checkpoint to it."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from dbrnet.training.schedule import Schedule

_WITHOUT_EFFECT = ("workers", "checkpoint_seconds")  # on the weights: a run may resume with other values


@dataclass(frozen=True)
class Recipe:
    """The knobs of the `train` section of params.yaml, where each is explained, with the model's switches."""

    seed: int
    epochs: int
    batch_size: int
    defect_free: float
    normalise_exposure: bool
    image_size: tuple[int, int] | None
    crop: tuple[int, int]
    scale: tuple[float, float]
    flip: bool
    learning_rate: float
    momentum: float
    weight_decay: float
    schedule: Schedule
    warmup_epochs: float
    ohem_threshold: float
    auxiliary_weight: float
    ema_decay: float | None
    amp: bool
    workers: int
    checkpoint_seconds: float
    lfem: bool = True
    affm: bool = True
    dcppm: bool = True

    def fingerprint(self, content_hash: str, train_ids: Sequence[str], val_ids: Sequence[str]) -> str:
        """SHA-256 of all that decides the weights: the recipe, the dataset's content and the splits' ids."""
        recipe = {key: value for key, value in asdict(self).items() if key not in _WITHOUT_EFFECT}
        content = json.dumps([recipe, content_hash, list(train_ids), list(val_ids)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()
