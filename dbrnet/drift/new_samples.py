"""What has come in since the champion was trained: which images are new, and what they look like."""

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.convert import image_digest, ordered_map
from dbrnet.data.dataset import CARD_FILE, Dataset, Image, Sample, decode_image
from dbrnet.data.image_decoding import read_whole
from dbrnet.data.image_stats import FEATURES, Features, measure_image_stats, read_image_stats
from dbrnet.data.readers.reader import IMAGE_SUFFIXES
from dbrnet.errors import UserError
from dbrnet.progress import progress


@dataclass(frozen=True)
class Images:
    """Images as tables describe them, or as they were looked at once; their pixels are not kept."""

    paths: tuple[Path, ...]  # the champion's may be gone
    groups: tuple[str, ...]
    features: NDArray[np.float64]  # [N, F], FEATURES in their order
    labels: tuple[tuple[int, ...], ...] | None  # defect ids in each; None: nobody has labelled them

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int]) -> "Images":
        """Those at `indices`, in that order."""
        return Images(
            tuple(self.paths[i] for i in indices),
            tuple(self.groups[i] for i in indices),
            self.features[list(indices)],
            None if self.labels is None else tuple(self.labels[i] for i in indices),
        )


@dataclass(frozen=True)
class NewSamples:
    """The champion's images, and what of the current ones it has not seen."""

    reference: Images
    new: Images
    known: int  # images of the current ones that the reference holds with the same mask, if any
    relabelled: int | None  # those that it holds with another mask; None: the current ones have no masks
    unusable: tuple[str, ...]  # of an unlabelled folder: which files were left out, and why
    content_hash: str  # of all current images


def open_current(current: Path) -> Dataset | Path:
    """The canonical dataset in the folder `current`, or the folder itself where plain images lie in it."""
    if (current / CARD_FILE).exists():
        return Dataset.load(current)
    if not current.is_dir():
        raise UserError(f"{current} does not exist; give an ingested dataset or a folder of images")
    if not _images_in(current):
        raise UserError(
            f"{current} holds neither {CARD_FILE} nor images ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            "give an ingested dataset or a folder of images"
        )
    return current


def find_new_samples(reference: Dataset, current: Dataset | Path) -> NewSamples:
    """Compare what `open_current` found with `reference`, of which the tables are enough.

    Images are known by their pixels, whatever they are called. In a dataset an image that cannot be read
    is a `UserError`; in a plain folder, where anything may lie, it is left out and listed.
    """
    if isinstance(current, Dataset):
        return _compare_datasets(reference, current)
    return _compare_folder(reference, current)


def read_image(path: Path) -> Image:
    """The image as RGB, [H, W, 3]; a `UserError` where it cannot be read."""
    try:
        return decode_image(read_whole(path), path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _compare_datasets(reference: Dataset, current: Dataset) -> NewSamples:
    if not all(sample.image_sha256 for sample in current.samples):
        raise UserError(f"{current.root} was ingested by an earlier version; ingest it again")
    hashes = {sample.sha256 for sample in reference.samples}
    others = [sample for sample in current.samples if sample.sha256 not in hashes]  # new image or new mask
    images = [sample.image_sha256 for sample in others]
    known = _digests(reference)
    new = [others[index] for index in _unseen(images, known)]
    return NewSamples(
        reference=_learned(reference),
        new=_describe(current, new, _image_stats(current, new)),
        known=len(current.samples) - len(others),
        relabelled=sum(image in known for image in images),
        unusable=(),
        content_hash=current.card.content_hash,
    )


def _compare_folder(reference: Dataset, folder: Path) -> NewSamples:
    paths = _images_in(folder)
    looks = _look_at_all(paths, "current images")
    unusable = tuple(str(look).replace(f"{folder}{os.sep}", "") for look in looks if isinstance(look, UserError))
    usable = [(path, look) for path, look in zip(paths, looks, strict=True) if isinstance(look, _Look)]
    if not usable:
        raise UserError(f"{folder}: none of its {len(paths)} images is usable; {unusable[0]}")
    digests = [look.digest for _, look in usable]
    known = _digests(reference)
    new = [usable[index] for index in _unseen(digests, known)]
    return NewSamples(
        reference=_learned(reference),
        new=Images(
            tuple(path for path, _ in new),
            tuple(path.name for path, _ in new),  # nothing is known of groups: each its own
            _stacked([look.features for _, look in new]),
            None,
        ),
        known=sum(digest in known for digest in digests),
        relabelled=None,
        unusable=unusable,
        content_hash=hashlib.sha256(bytes.fromhex("".join(sorted(digests)))).hexdigest(),
    )


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _digests(dataset: Dataset) -> set[str]:
    return {sample.image_sha256 for sample in dataset.samples}


def _unseen(digests: Sequence[str], known: Collection[str]) -> list[int]:
    """The places of those that are not `known`, each once."""
    places: dict[str, int] = {}
    for place, digest in enumerate(digests):
        if digest not in known:
            places.setdefault(digest, place)
    return list(places.values())


def _learned(reference: Dataset) -> Images:
    """The reference's images, by its tables alone."""
    features = read_image_stats(reference)
    return _describe(reference, [one for one in reference.samples if one.image_sha256 in features], features)


def _image_stats(dataset: Dataset, samples: Sequence[Sample]) -> dict[str, Features]:
    """By `image_sha256`: from the dataset's table, and measured where it has none."""
    found = read_image_stats(dataset)
    rest = [sample for sample in samples if sample.image_sha256 not in found]
    looks = _look_at_all([dataset.root / sample.image for sample in rest], "new images")
    for sample, look in zip(rest, looks, strict=True):
        if isinstance(look, UserError):
            raise look
        found[sample.image_sha256] = look.features
    return found


def _describe(dataset: Dataset, samples: Sequence[Sample], features: dict[str, Features]) -> Images:
    return Images(
        tuple(dataset.root / sample.image for sample in samples),
        tuple(sample.group for sample in samples),
        _stacked([features[sample.image_sha256] for sample in samples]),
        tuple(sample.classes for sample in samples),
    )


def _stacked(features: Sequence[Features]) -> NDArray[np.float64]:
    return np.array(features, np.float64).reshape(len(features), len(FEATURES))


@dataclass(frozen=True)
class _Look:
    features: Features
    digest: str


def _look_at_all(paths: Sequence[Path], label: str) -> list["_Look | UserError"]:
    return list(progress(ordered_map(_look_at, paths), len(paths), label))


def _look_at(path: Path) -> "_Look | UserError":
    try:
        image = read_image(path)
        return _Look(measure_image_stats(image), image_digest(image).hex())
    except UserError as error:
        message = str(error)
        return UserError(message if message.startswith(str(path)) else f"{path}: {message}")
