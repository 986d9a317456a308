"""MT: magnetic tiles, a folder for each class, each tile under up to six exposures."""

import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from dbrnet.data.dataset import ClassInfo, DatasetInfo, decode_grey
from dbrnet.data.image_decoding import read_whole
from dbrnet.data.readers.reader import Measured, RawMask, RawSample, Reader, pair_by_stem
from dbrnet.errors import UserError

DEFECTS = ("Blowhole", "Break", "Crack", "Fray", "Uneven")  # class ids 1 to 5
FREE = "Free"
TILE_JUMP = 400  # in num; the exposures of one tile lie closer together
NEARLY_EMPTY = 4  # pixels

_NAME = re.compile(r"exp(\d+)_num_(\d+)")


class MagneticTile(Reader):
    """The public set: 1,344 images of about 246 tiles; its masks are grey and are thresholded."""

    info = DatasetInfo(
        name="magnetic-tile",
        title="MT, magnetic tile surface defects",
        classes=(
            ClassInfo("background", (0, 0, 0)),
            ClassInfo("blowhole", (230, 159, 0)),
            ClassInfo("break", (86, 180, 233)),
            ClassInfo("crack", (213, 94, 0)),
            ClassInfo("fray", (0, 158, 115)),
            ClassInfo("uneven", (204, 121, 167)),
        ),
        homepage="https://github.com/abin24/Magnetic-tile-defect-datasets.",
        citation="Huang, Qiu, Yuan: Surface defect saliency of magnetic tile, The Visual Computer 36, 2020",
        licence="its README welcomes use and asks for a citation",
        group_rule="images of one tile under successive exposures share a group; a new tile starts, in "
        f"order of num within a class, when exp does not increase or num jumps by {TILE_JUMP} or more",
        leak_note="",
    )
    layout = tuple(f"MT_{name}" for name in (*DEFECTS, FREE))

    def samples(self, folder: Path, mask_threshold: int) -> list[RawSample]:
        """The pairs of all six folders; an image's class is its folder's."""
        samples = []
        for class_id, name in enumerate((FREE, *DEFECTS)):
            place = folder / f"MT_{name}" / "Imgs"
            if not place.is_dir():
                raise UserError(f"{place.relative_to(folder)} is missing; fetch the dataset again")
            pairs = pair_by_stem(place.glob("*.jpg"), place.glob("*.png"), folder)
            tiles = find_tiles(image.stem for image, _ in pairs)
            for image, mask in pairs:
                read_mask = partial(_read_mask, mask, class_id, mask_threshold)
                prefix = name.lower()
                samples.append(RawSample(f"{prefix}-{image.stem}", image, f"{prefix}-{tiles[image.stem]}", read_mask))
        return samples

    def notes(self, folder: Path, measured: Sequence[Measured], mask_threshold: int) -> tuple[str, ...]:
        """The threshold, and the masks that it leaves empty or nearly so."""
        defective = {item.id: item.pixels[1:].sum() for item in measured if not item.id.startswith("free-")}
        empty = [id_ for id_, pixels in defective.items() if pixels == 0]
        nearly = [id_ for id_, pixels in defective.items() if 0 < pixels < NEARLY_EMPTY]
        grey = [item.grey for item in measured if item.grey]
        notes = [
            f"a mask's pixel is defect where its grey value exceeds {mask_threshold}; {len(grey)} masks hold "
            f"grey values between black and white, {sum(grey)} pixels in all"
        ]
        if empty:
            notes.append(f"masks of defective images that are empty: {', '.join(empty)}")
        if nearly:
            notes.append(f"masks with fewer than {NEARLY_EMPTY} pixels: {', '.join(nearly)}")
        return tuple(notes)


def find_tiles(stems: Iterable[str]) -> dict[str, str]:
    """The tile of each image `exp<E>_num_<N>` of one class, named by the tile's first num (see `group_rule`)."""
    numbered = []
    for stem in stems:
        if (match := _NAME.fullmatch(stem)) is None:
            raise UserError(f"{stem}: images are named exp<E>_num_<N>; rename or remove it")
        numbered.append((int(match[2]), int(match[1]), stem))
    tiles: dict[str, str] = {}
    tile, previous_num, previous_exposure = "", 0, 0
    for num, exposure, stem in sorted(numbered):
        if not tile or exposure <= previous_exposure or num - previous_num >= TILE_JUMP:
            tile = f"{num:06d}"
        tiles[stem] = tile
        previous_num, previous_exposure = num, exposure
    return tiles


def _read_mask(path: Path, class_id: int, threshold: int, height: int, width: int) -> RawMask:
    levels = decode_grey(read_whole(path), path)
    marked = levels > threshold
    if not class_id and marked.any():
        raise UserError(f"{path} marks a defect in an image of MT_{FREE}; correct it or remove the image")
    grey = int(np.count_nonzero((levels > 0) & (levels < 255)))
    return RawMask((marked * class_id).astype(np.uint8), grey=grey)
