"""What has come in since the champion was trained: which pictures are new, and what they look like."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.conversion import in_order, picture_digest
from dbrnet.data.dataset import CARD_FILE, Dataset, Image, Sample, decode_image
from dbrnet.data.pictures import read_whole
from dbrnet.data.readers.reader import IMAGE_SUFFIXES
from dbrnet.drift.appearance import FEATURES, measure_appearance
from dbrnet.errors import UserError
from dbrnet.progress import progress


@dataclass(frozen=True)
class Pictures:
    """Pictures that were looked at once; their pixels are not kept."""

    paths: tuple[Path, ...]
    groups: tuple[str, ...]
    features: NDArray[np.float64]  # [N, F], FEATURES in their order
    digests: tuple[bytes, ...]
    labels: tuple[tuple[int, ...], ...] | None  # defect ids in each; None: nobody has labelled them

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, indices: Sequence[int]) -> "Pictures":
        """Those at `indices`, in that order."""
        return Pictures(
            tuple(self.paths[i] for i in indices),
            tuple(self.groups[i] for i in indices),
            self.features[list(indices)],
            tuple(self.digests[i] for i in indices),
            None if self.labels is None else tuple(self.labels[i] for i in indices),
        )


@dataclass(frozen=True)
class Arrivals:
    """The champion's pictures, and what of the current ones it has not seen."""

    reference: Pictures
    new: Pictures
    known: int  # pictures of the current ones that the reference holds with the same mask, if any
    relabelled: int | None  # those that it holds with another mask; None: the current ones have no masks
    unusable: tuple[str, ...]  # of an unlabelled folder: which files were left out, and why
    content_hash: str  # of all current pictures


def find_arrivals(reference: Dataset, current: Path) -> Arrivals:
    """Compare `current`, a canonical dataset or a plain folder of unlabelled pictures, with `reference`.

    Pictures are known by their pixels, whatever they are called. In a dataset a picture that cannot be read
    is a `UserError`; in a plain folder, where anything may lie, it is left out and listed.
    """
    if (current / CARD_FILE).exists():
        return _compare_datasets(reference, Dataset.load(current))
    if not current.is_dir():
        raise UserError(f"{current} does not exist; give an ingested dataset or a folder of pictures")
    return _compare_folder(reference, current)


def read_picture(path: Path) -> Image:
    """The picture as RGB, [H, W, 3]; a `UserError` where it cannot be read."""
    try:
        return decode_image(read_whole(path), path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None


def _compare_datasets(reference: Dataset, current: Dataset) -> Arrivals:
    before, after = ([info.name for info in data.card.classes] for data in (reference, current))
    if before != after:
        raise UserError(
            f"{current.root} has the classes {', '.join(after)}, and {reference.root} {', '.join(before)}; "
            "a network of other classes is trained anew"
        )
    seen = _look_at_samples(reference, reference.samples, "champion's pictures")
    hashes = {sample.sha256 for sample in reference.samples}
    others = [sample for sample in current.samples if sample.sha256 not in hashes]  # new picture or new mask
    looked_at = _look_at_samples(current, others, "current pictures")
    new = _unseen(looked_at, seen)
    digests = set(seen.digests)
    return Arrivals(
        reference=seen,
        new=new,
        known=len(current.samples) - len(others),
        relabelled=sum(digest in digests for digest in looked_at.digests),
        unusable=(),
        content_hash=current.card.content_hash,
    )


def _compare_folder(reference: Dataset, folder: Path) -> Arrivals:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not paths:
        raise UserError(
            f"{folder} holds neither {CARD_FILE} nor pictures ({', '.join(sorted(IMAGE_SUFFIXES))}); "
            "give an ingested dataset or a folder of pictures"
        )
    seen = _look_at_samples(reference, reference.samples, "champion's pictures")
    looks = _look_at_all(paths, "current pictures")
    unusable = tuple(
        str(look).replace(f"{folder}{os.sep}", "") for look in looks if isinstance(look, UserError)
    )
    usable = [(path, look) for path, look in zip(paths, looks, strict=True) if isinstance(look, _Look)]
    if not usable:
        raise UserError(f"{folder}: none of its {len(paths)} pictures is usable; {unusable[0]}")
    names = tuple(path.name for path, _ in usable)  # nothing is known of groups: each its own
    pictures = _gather([path for path, _ in usable], names, [look for _, look in usable], None)
    digests = set(seen.digests)
    return Arrivals(
        reference=seen,
        new=_unseen(pictures, seen),
        known=sum(digest in digests for digest in pictures.digests),
        relabelled=None,
        unusable=unusable,
        content_hash=hashlib.sha256(b"".join(sorted(pictures.digests))).hexdigest(),
    )


def _unseen(pictures: Pictures, seen: Pictures) -> Pictures:
    """Those that are not among `seen`, each once."""
    taken = set(seen.digests)
    indices = []
    for index, digest in enumerate(pictures.digests):
        if digest not in taken:
            taken.add(digest)
            indices.append(index)
    return pictures.take(indices)


@dataclass(frozen=True)
class _Look:
    features: NDArray[np.float64]
    digest: bytes


def _look_at_samples(dataset: Dataset, samples: Sequence[Sample], label: str) -> Pictures:
    paths = [dataset.root / sample.image for sample in samples]
    looks = []
    for look in _look_at_all(paths, label):
        if isinstance(look, UserError):
            raise look
        looks.append(look)
    groups = tuple(sample.group for sample in samples)
    return _gather(paths, groups, looks, tuple(sample.classes for sample in samples))


def _look_at_all(paths: Sequence[Path], label: str) -> list["_Look | UserError"]:
    return list(progress(in_order(_look_at, paths), len(paths), label))


def _look_at(path: Path) -> "_Look | UserError":
    try:
        image = read_picture(path)
        return _Look(measure_appearance(image), picture_digest(image))
    except UserError as error:
        message = str(error)
        return UserError(message if message.startswith(str(path)) else f"{path}: {message}")


def _gather(
    paths: Sequence[Path],
    groups: tuple[str, ...],
    looks: Sequence[_Look],
    labels: tuple[tuple[int, ...], ...] | None,
) -> Pictures:
    features = np.array([look.features for look in looks], np.float64).reshape(len(looks), len(FEATURES))
    return Pictures(tuple(paths), groups, features, tuple(look.digest for look in looks), labels)
