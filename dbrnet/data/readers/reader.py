"""What a dataset's reader is, and what readers share: finding the layout, and pairing."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import About, Mask
from dbrnet.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
_WRAPPING_DEPTH = 2  # folders around the layout: an archive's top folder, and one more


@dataclass(frozen=True)
class RawMask:
    """A mask as its source has it."""

    ids: Mask  # [H, W]
    overlap: int = 0  # pixels that more than one class claims
    grey: int = 0  # pixels neither black nor white, where a threshold made a mask of them


@dataclass(frozen=True)
class RawSample:
    """One image as its source has it. `read_mask(height, width)` is given the image's size."""

    id: str
    image: Path
    group: str
    read_mask: Callable[[int, int], RawMask]
    published: str = ""  # the split in which it was published, train or test; empty: none


@dataclass(frozen=True)
class Measured:
    """What building counted in one sample."""

    id: str
    pixels: NDArray[np.int64]  # [C], of each class
    overlap: int
    grey: int


class Reader(ABC):
    """Knows one dataset's layout: where images, masks and groups are, and what is odd about it."""

    about: ClassVar[About]
    layout: ClassVar[tuple[str, ...]]  # the files and folders by which the layout is known

    @abstractmethod
    def samples(self, folder: Path, mask_threshold: int) -> list[RawSample]:
        """All samples under `folder`, in any order; raises `UserError` where the layout is broken."""

    @abstractmethod
    def notes(self, folder: Path, measured: Sequence[Measured], mask_threshold: int) -> tuple[str, ...]:
        """What a reader of the card must know of how the samples were read."""


def find_layout(root: Path, layout: tuple[str, ...]) -> Path:
    """The folder at or a little below `root` that holds every name of `layout`."""
    level = [root]
    for _ in range(_WRAPPING_DEPTH + 1):
        found = [folder for folder in level if all((folder / name).exists() for name in layout)]
        if len(found) > 1:
            raise UserError(f"{found[0].name} and {found[1].name} both look like the dataset; give one of them")
        if found:
            return found[0]
        level = sorted(path for folder in level for path in folder.iterdir() if path.is_dir())
    raise UserError(f"not this dataset, or not all of it: no folder holds {' and '.join(layout)}")


def pair_by_stem(images: Iterable[Path], masks: Iterable[Path], folder: Path) -> list[tuple[Path, Path]]:
    """Each image with the mask of its name, ascending; one without the other is a `UserError`."""
    mask_of = {path.stem: path for path in masks}
    pairs = []
    for image in sorted(images):
        if (mask := mask_of.pop(image.stem, None)) is None:
            raise UserError(f"{image.relative_to(folder)} has no mask; add it or remove the image")
        pairs.append((image, mask))
    for mask in mask_of.values():
        raise UserError(f"{mask.relative_to(folder)} is a mask without an image; add it or remove the mask")
    return pairs


def image_files(folder: Path) -> list[Path]:
    """The images directly in `folder`, ascending; files of systems and editors are passed over."""
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
