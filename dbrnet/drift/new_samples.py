"""The images that came in since the champion was trained: which are new, and what they look like."""

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbrnet.data import open_dataset
from dbrnet.data.dataset import CARD_FILE, Dataset, Image, Sample, decode_image, image_hash
from dbrnet.data.image_decoding import read_whole
from dbrnet.data.image_stats import FEATURES, Features, measure_image_stats, read_image_stats
from dbrnet.data.readers.reader import IMAGE_SUFFIXES, image_files
from dbrnet.errors import UserError
from dbrnet.parallel import ordered_map
from dbrnet.progress import progress


@dataclass(frozen=True)
class Images:
    """Images as tables or one look at the files describe them; their pixels are not kept."""

    paths: tuple[Path, ...]  # the champion's images may be gone
    groups: tuple[str, ...]
    features: NDArray[np.float64]  # [N, F], FEATURES in their order
    labels: tuple[tuple[int, ...], ...] | None  # defect ids in each; None: unlabelled

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int]) -> "Images":
        """The images at `indices`, in that order."""
        return Images(
            tuple(self.paths[i] for i in indices),
            tuple(self.groups[i] for i in indices),
            self.features[list(indices)],
            None if self.labels is None else tuple(self.labels[i] for i in indices),
        )


@dataclass(frozen=True)
class NewSamples:
    """The champion's images, and those of the current ones that it has not seen."""

    reference: Images
    new: Images
    known: int  # current images that the reference holds, with the same mask where there are masks
    relabelled: int | None  # current images that it holds with another mask; None: the current ones have no masks
    unusable: tuple[str, ...]  # files of an unlabelled folder that were left out, and why
    content_hash: str  # of all current images


def open_current(current: Path) -> Dataset | Path:
    """The canonical dataset in the folder `current`, or the folder itself where it holds plain images.

    Raises `UserError` where it is neither.
    """
    if (current / CARD_FILE).exists():
        return open_dataset(current)
    if not current.is_dir():
        raise UserError(f"{current} does not exist; give an ingested dataset or a folder of images")
    if not image_files(current):
        raise UserError(
            f"{current} holds neither {CARD_FILE} nor images ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            "give an ingested dataset or a folder of images"
        )
    return current


def find_new_samples(reference: Dataset, current: Dataset | Path) -> NewSamples:
    """Compare the result of `open_current` with `reference`, of which only the tables are read.

    Images are identified by their pixels, whatever they are called. An unreadable image is a `UserError` in a
    dataset; in a plain folder, which may hold anything, it is left out and listed.
    """
    features = read_image_stats(reference)
    seen = [sample for sample in reference.samples if sample.image_sha256 in features]
    learned = _describe(reference, seen, features)
    known = {sample.image_sha256 for sample in reference.samples}
    if isinstance(current, Dataset):
        return _compare_dataset(current, reference, learned, known)
    return _compare_folder(current, learned, known)


def read_image(path: Path) -> Image:
    """The image as RGB, [H, W, 3]; raises `UserError` where it cannot be read."""
    try:
        return decode_image(read_whole(path), path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _compare_dataset(current: Dataset, reference: Dataset, learned: Images, known: set[str]) -> NewSamples:
    hashes = {sample.sha256 for sample in reference.samples}
    changed = [sample for sample in current.samples if sample.sha256 not in hashes]  # new image or new mask
    images = [sample.image_sha256 for sample in changed]
    new = [changed[index] for index in _first_unseen(images, known)]
    features = read_image_stats(current)
    unmeasured = [sample for sample in new if sample.image_sha256 not in features]
    measured = _measure_all([current.root / sample.image for sample in unmeasured], "new images")
    for sample, result in zip(unmeasured, measured, strict=True):
        if isinstance(result, UserError):
            raise result
        features[sample.image_sha256], _ = result
    return NewSamples(
        reference=learned,
        new=_describe(current, new, features),
        known=len(current.samples) - len(changed),
        relabelled=sum(image in known for image in images),
        unusable=(),
        content_hash=current.card.content_hash,
    )


def _compare_folder(folder: Path, learned: Images, known: set[str]) -> NewSamples:
    paths = image_files(folder)
    results = _measure_all(paths, "current images")
    unusable = tuple(
        str(result).replace(f"{folder}{os.sep}", "") for result in results if isinstance(result, UserError)
    )
    usable = [(path, *result) for path, result in zip(paths, results, strict=True) if not isinstance(result, UserError)]
    if not usable:
        raise UserError(f"{folder}: none of its {len(paths)} images is usable; {unusable[0]}")
    hashes = [image for _, _, image in usable]
    new = [usable[index] for index in _first_unseen(hashes, known)]
    return NewSamples(
        reference=learned,
        new=Images(
            tuple(path for path, *_ in new),
            tuple(path.name for path, *_ in new),  # nothing is known of near-duplicates: each is its own group
            _stack([features for _, features, _ in new]),
            None,
        ),
        known=sum(image in known for image in hashes),
        relabelled=None,
        unusable=unusable,
        content_hash=hashlib.sha256(bytes.fromhex("".join(sorted(hashes)))).hexdigest(),
    )


def _first_unseen(hashes: Sequence[str], known: Collection[str]) -> list[int]:
    """The indices of the hashes that are not `known`, each hash once."""
    indices: dict[str, int] = {}
    for index, image in enumerate(hashes):
        if image not in known:
            indices.setdefault(image, index)
    return list(indices.values())


def _describe(dataset: Dataset, samples: Sequence[Sample], features: dict[str, Features]) -> Images:
    return Images(
        tuple(dataset.root / sample.image for sample in samples),
        tuple(sample.group for sample in samples),
        _stack([features[sample.image_sha256] for sample in samples]),
        tuple(sample.classes for sample in samples),
    )


def _stack(features: Sequence[Features]) -> NDArray[np.float64]:
    return np.array(features, np.float64).reshape(len(features), len(FEATURES))


def _measure_all(paths: Sequence[Path], label: str) -> list[tuple[Features, str] | UserError]:
    """The features and the hash of each image, or why it cannot be used."""
    return list(progress(ordered_map(_measure, paths), len(paths), label))


def _measure(path: Path) -> tuple[Features, str] | UserError:
    try:
        image = read_image(path)
        return measure_image_stats(image), image_hash(image)
    except UserError as error:
        message = str(error)
        return UserError(message if message.startswith(str(path)) else f"{path}: {message}")
