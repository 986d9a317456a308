"""What a training learns from and is scored on, made from a dataset's splits."""

from collections.abc import Sequence
from dataclasses import dataclass

from dbrnet.bounds import MINIMUM_SIDE
from dbrnet.data.dataset import Dataset
from dbrnet.data.loading import Images
from dbrnet.errors import UserError
from dbrnet.models.saved import ModelMeta
from dbrnet.training.augmentation import Augmentation
from dbrnet.training.crops import Crops, Series
from dbrnet.training.distributed import DistributedContext
from dbrnet.training.recipe import Recipe
from dbrnet.training.sampling import Sampler
from dbrnet.training.validation import ImagesLike
from dbrnet.training.zoom import choose_zoom


@dataclass(frozen=True)
class Task:
    """What a network learns: the crops that it sees, and the images that it is scored on."""

    crops: Series
    val_images: ImagesLike
    meta: ModelMeta


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
    if not any(sample.classes for sample in train_images.samples):
        raise UserError(
            "no image of the train split shows a defect: nothing to learn, and nothing to paste (train.paste); "
            "look at the labels"
        )
    if warm:
        train_images.warm()
    mean, std, zoom = distributed.from_first(
        lambda: (*train_images.statistics(), choose_zoom(train_images) if recipe.zoom == "auto" else recipe.zoom)
    )
    smallest = min(min(sample.height, sample.width) for sample in dataset.samples)  # also those to be tested
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
