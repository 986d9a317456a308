"""The public datasets and the generated one, each in the layout in which it is distributed."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np

from dbrnet.data.dataset import DatasetInfo, decode_grey
from dbrnet.data.image_decoding import read_class_ids, read_png
from dbrnet.data.readers import (
    GREEN,
    ORANGE,
    PURPLE,
    SKY_BLUE,
    VERMILION,
    Measured,
    RawMask,
    RawSample,
    Reader,
    image_files,
    pair_by_stem,
    rle_mask,
    with_background,
)
from dbrnet.data.rle import Row, read_table
from dbrnet.errors import UserError

PUBLISHED = {"training": "train", "test": "test"}  # NEU-Seg's folder -> split
DEFECTS = ("Blowhole", "Break", "Crack", "Fray", "Uneven")  # MT's class ids 1 to 5
FREE = "Free"
TILE_JUMP = 400  # in num; the exposures of one tile lie closer together
NEARLY_EMPTY = 4  # pixels
TABLE = "train.csv"

_TILE_NAME = re.compile(r"exp(\d+)_num_(\d+)")


class NeuSeg(Reader):
    """Hot-rolled steel strip: 3,630 training and 840 test images of 200 x 200, with masks of class ids."""

    info = DatasetInfo(
        name="neu-seg",
        title="NEU-Seg, hot-rolled steel strip",
        classes=with_background({"inclusion": VERMILION, "patches": SKY_BLUE, "scratches": ORANGE}),
        homepage="https://github.com/DHW-Master/NEU_Seg",
        citation="Dong et al.: PGA-Net: Pyramid Feature Fusion and Global Context Attention Network for "
        "Automated Surface Defect Detection, IEEE Transactions on Industrial Informatics 16(12), 2020",
        licence="none is stated",
        leak_note="96.4 % of the published test images are turned training images, and many images "
        "of two classes are others with a defect pasted in: a split must go by what the images show",
    )
    layout = ("images", "annotations")

    def samples(self) -> list[RawSample]:
        """The pairs of both published splits, which the ids keep apart."""
        samples = []
        for name, published in PUBLISHED.items():
            images, masks = (_existing(self.folder / kind / name, self.folder) for kind in self.layout)
            for image, mask in pair_by_stem(image_files(images), image_files(masks), self.folder):
                id_ = f"{name}-{image.stem}"
                samples.append(RawSample(id_, image, id_, partial(_read_ids, mask), published))
        return samples

    def notes(self, measured: Sequence[Measured]) -> tuple[str, ...]:
        """How large the published splits are; they are not used as a split."""
        sizes = {name: sum(item.id.startswith(f"{name}-") for item in measured) for name in PUBLISHED}
        return (
            f"the published splits, {sizes['training']} training and {sizes['test']} test images, are read "
            "as one set; the ids say which split an image came from",
        )


class MagneticTile(Reader):
    """MT: 1,344 images of about 246 tiles, each under up to six exposures; its grey masks are thresholded."""

    info = DatasetInfo(
        name="magnetic-tile",
        title="MT, magnetic tile surface defects",
        classes=with_background(
            {"blowhole": ORANGE, "break": SKY_BLUE, "crack": VERMILION, "fray": GREEN, "uneven": PURPLE}
        ),
        homepage="https://github.com/abin24/Magnetic-tile-defect-datasets.",
        citation="Huang, Qiu, Yuan: Surface defect saliency of magnetic tile, The Visual Computer 36, 2020",
        licence="its README welcomes use and asks for a citation",
        group_rule="images of one tile under successive exposures share a group; a new tile starts, in "
        f"order of num within a class, when exp does not increase or num jumps by {TILE_JUMP} or more",
    )
    layout = tuple(f"MT_{name}" for name in (*DEFECTS, FREE))

    def samples(self) -> list[RawSample]:
        """The pairs of all six folders; an image's class is its folder's."""
        samples = []
        for class_id, name in enumerate((FREE, *DEFECTS)):
            place = _existing(self.folder / f"MT_{name}" / "Imgs", self.folder)
            pairs = pair_by_stem(place.glob("*.jpg"), place.glob("*.png"), self.folder)
            tiles = find_tiles(image.stem for image, _ in pairs)
            for image, mask in pairs:
                read_mask = partial(_read_grey, mask, class_id, self.mask_threshold)
                prefix = name.lower()
                samples.append(RawSample(f"{prefix}-{image.stem}", image, f"{prefix}-{tiles[image.stem]}", read_mask))
        return samples

    def notes(self, measured: Sequence[Measured]) -> tuple[str, ...]:
        """The threshold, and the masks that it leaves empty or nearly so."""
        defective = {item.id: item.pixels[1:].sum() for item in measured if not item.id.startswith("free-")}
        empty = [id_ for id_, pixels in defective.items() if pixels == 0]
        nearly = [id_ for id_, pixels in defective.items() if 0 < pixels < NEARLY_EMPTY]
        grey = [item.grey for item in measured if item.grey]
        threshold = (
            f"a mask's pixel is defect where its grey value exceeds {self.mask_threshold}; {len(grey)} masks hold "
            f"grey values between black and white, {sum(grey)} pixels in all"
        )
        what = {
            "masks of defective images that are empty": empty,
            f"masks with fewer than {NEARLY_EMPTY} pixels": nearly,
        }
        return threshold, *(f"{name}: {', '.join(ids)}" for name, ids in what.items() if ids)


class Severstal(Reader):
    """Flat steel strip: the competition's whole set (12,568 images) or a part of it, with run-length encoded masks."""

    info = DatasetInfo(
        name="severstal",
        title="Severstal, flat steel strip",
        classes=with_background({"class-1": ORANGE, "class-2": VERMILION, "class-3": SKY_BLUE, "class-4": GREEN}),
        homepage="https://www.kaggle.com/c/severstal-steel-defect-detection",
        citation="PAO Severstal: Severstal: Steel Defect Detection, Kaggle, 2019",
        licence="owned by PAO Severstal; may be used in research without restrictions except by law, as "
        "quoted from the competition's discussion 118403",
        leak_note="near-copies have been reported in the whole set, some with differing masks",
    )
    layout = (TABLE, "train_images")
    whole_tables: ClassVar[dict[str, str]] = {  # git blob -> which of the whole set's two files it is
        "93c7bb63fce4b5be5c91c9fcb4462ccdf953658f": "new form",
        "78e36fc41897658d0a7067886102266c82ed65f3": "old form",
    }

    def group(self, stem: str) -> str:
        """The group of an image, by its file's name: each image is its own."""
        return stem

    def samples(self) -> list[RawSample]:
        """All of train_images/; an image without a row is defect-free. test_images/ has no labels."""
        images = image_files(self.folder / "train_images")
        rows_of: dict[str, dict[int, Row]] = {image.name: {} for image in images}
        labels = {str(class_id): class_id for class_id in range(1, len(self.info.classes))}
        for row in read_table(self.folder / TABLE, labels):
            if row.fault:
                raise UserError(f"{row.place}: {row.fault}")
            if row.image not in rows_of:
                raise UserError(f"{row.place}: there is no train_images/{row.image[:200]}; add it or remove the row")
            if row.class_id in rows_of[row.image]:
                raise UserError(f"{row.place}: class {row.class_id} of {row.image} has a row already")
            rows_of[row.image][row.class_id] = row
        return [
            RawSample(image.stem, image, self.group(image.stem), partial(rle_mask, rows_of[image.name]))
            for image in images
        ]

    def notes(self, measured: Sequence[Measured]) -> tuple[str, ...]:
        """Which class wins where several overlap, how often they do, and which table it is."""
        overlaps = [item.overlap for item in measured if item.overlap]
        notes = []
        if overlaps:
            pixels, images = sum(overlaps), len(overlaps)
            notes.append(f"where classes overlap the highest class id wins: {pixels} pixels in {images} images")
        if self.whole_tables:
            form = self.whole_tables.get(git_blob((self.folder / TABLE).read_bytes()))
            notes.append(
                f"{TABLE} is the whole set's ({form})"
                if form
                else f"{TABLE} is not one of the whole set's two known files: a part or a changed copy"
            )
        return tuple(notes)


class SteelStrip(Severstal):
    """What `dbrnet.data.synthetic` writes: files `<strip>_<copy>.jpg`, with its own classes and known groups."""

    info = DatasetInfo(
        name="steel-strip",
        title="Steel strip, generated",
        classes=with_background({"scratch": ORANGE, "patch": SKY_BLUE, "inclusion": VERMILION, "scale-pit": GREEN}),
        licence="generated by this project, as free as its code",
        group_rule="images of one strip share a group: the file's name up to the first underscore",
    )
    whole_tables: ClassVar[dict[str, str]] = {}

    def group(self, stem: str) -> str:
        """The strip: `s00012_r180` is a copy of strip `s00012`."""
        return stem.partition("_")[0]


def find_tiles(stems: Iterable[str]) -> dict[str, str]:
    """The tile of each MT image `exp<E>_num_<N>` of one class, named by the tile's first num (see `group_rule`)."""
    numbered = []
    for stem in stems:
        if (match := _TILE_NAME.fullmatch(stem)) is None:
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


def git_blob(content: bytes) -> str:
    """The SHA-1 by which git names a file of this content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def _existing(place: Path, folder: Path) -> Path:
    if not place.is_dir():
        raise UserError(f"{place.relative_to(folder)} is missing; fetch the dataset again")
    return place


def _read_ids(path: Path, height: int, width: int) -> RawMask:
    return RawMask(read_class_ids(path))


def _read_grey(path: Path, class_id: int, threshold: int, height: int, width: int) -> RawMask:
    levels = decode_grey(read_png(path), path)
    marked = levels > threshold
    if not class_id and marked.any():
        raise UserError(f"{path} marks a defect in an image of MT_{FREE}; correct it or remove the image")
    grey = int(np.count_nonzero((levels > 0) & (levels < 255)))
    return RawMask((marked * class_id).astype(np.uint8), grey=grey)
