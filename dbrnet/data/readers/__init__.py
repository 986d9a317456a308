"""Readers of datasets in their own layouts: their interface, what they share, and `READERS`, which finds them.

A new reader is a subclass of `Reader` in a module of this package, and a new form of own labels one of
`factory.LabelForm`; neither is listed anywhere else.
"""

import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo, DatasetInfo, Mask
from dbrnet.data.rle import Row, read_mask
from dbrnet.errors import UserError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
ORANGE, SKY_BLUE, VERMILION, GREEN, PURPLE = (230, 159, 0), (86, 180, 233), (213, 94, 0), (0, 158, 115), (204, 121, 167)
# Okabe and Ito's colours, distinct for colour-blind readers too; the last two are yellow and blue
PALETTE = (ORANGE, SKY_BLUE, VERMILION, GREEN, PURPLE, (240, 228, 66), (0, 114, 178))
_WRAPPING_DEPTH = 2  # folders around the layout: an archive's top folder, and one more


class RawMask(NamedTuple):
    """A mask as its source has it."""

    ids: Mask  # [H, W]
    overlap: int = 0  # pixels that more than one class claims
    grey: int = 0  # pixels neither black nor white, where the mask was thresholded


@dataclass(frozen=True)
class RawSample:
    """One image as its source has it. `read_mask(height, width)` is called with the image's size."""

    id: str
    image: Path
    group: str
    read_mask: Callable[[int, int], RawMask]
    published: str = ""  # the split in which it was published, train or test; empty: none
    mask_files: tuple[Path, ...] = ()  # where a factory's labels are files; known to be an image's by their names


@dataclass(frozen=True)
class Measured:
    """Counts from one sample, for the reader's notes."""

    id: str
    pixels: NDArray[np.int64]  # [C], of each class
    overlap: int
    grey: int


class Reader(ABC):
    """Knows one dataset's layout: where images, masks and groups are, and what is odd about them."""

    info: ClassVar[DatasetInfo]
    layout: ClassVar[tuple[str, ...]]  # the files and folders by which the layout is known

    def __init__(self, folder: Path, mask_threshold: int) -> None:
        self.folder = folder  # holds every name of `layout`
        self.mask_threshold = mask_threshold

    def __init_subclass__(cls) -> None:
        READERS[cls.info.name] = cls

    @abstractmethod
    def samples(self) -> list[RawSample]:
        """All samples, in any order; raises `UserError` where the layout is broken."""

    @abstractmethod
    def notes(self, measured: Sequence[Measured]) -> tuple[str, ...]:
        """Notes for the card: what the reader decided, and what it noticed in the samples."""


READERS: dict[str, type[Reader]] = {}  # by the dataset's name


def with_background(colors: Mapping[str, tuple[int, int, int]]) -> tuple[ClassInfo, ...]:
    """A dataset's classes: the background, and the defects by name, ids from 1."""
    return ClassInfo("background", (0, 0, 0)), *(ClassInfo(name, color) for name, color in colors.items())


def find_layout(root: Path, layout: tuple[str, ...]) -> Path:
    """The folder at or a little below `root` that holds every name of `layout`; `UserError` if none or two do."""
    level = [root]
    for _ in range(_WRAPPING_DEPTH + 1):
        matching = [folder for folder in level if all((folder / name).exists() for name in layout)]
        if len(matching) > 1:
            raise UserError(f"{matching[0].name} and {matching[1].name} both look like the dataset; give one of them")
        if matching:
            return matching[0]
        level = sorted(path for folder in level for path in folder.iterdir() if path.is_dir())
    raise UserError(f"not this dataset, or not all of it: no folder holds {' and '.join(layout)}")


def image_files(folder: Path) -> list[Path]:
    """The images directly in `folder`, ascending; hidden files are skipped."""
    shown = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in shown if path.suffix.lower() in IMAGE_SUFFIXES)


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


def rle_mask(rows: Mapping[int, Row], height: int, width: int) -> RawMask:
    """The mask of an image whose labels are run-length encoded rows, by class id; see `rle.read_mask`."""
    return RawMask(*read_mask(rows, height, width))


for _module in pkgutil.iter_modules(__path__):  # a module's classes enter the registry as they are defined
    import_module(f"{__name__}.{_module.name}")
