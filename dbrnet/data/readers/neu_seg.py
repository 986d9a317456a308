"""NEU-Seg: hot-rolled steel strip, images/ and annotations/ in training/ and test/, masks of class ids."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from dbrnet.data.dataset import ClassInfo, DatasetInfo, decode_grey
from dbrnet.data.image_decoding import read_whole
from dbrnet.data.readers.reader import Measured, RawMask, RawSample, Reader, image_files, pair_by_stem
from dbrnet.errors import UserError

PUBLISHED = {"training": "train", "test": "test"}  # folder -> split


class NeuSeg(Reader):
    """The public set: 3,630 training and 840 test images of 200 x 200."""

    info = DatasetInfo(
        name="neu-seg",
        title="NEU-Seg, hot-rolled steel strip",
        classes=(
            ClassInfo("background", (0, 0, 0)),
            ClassInfo("inclusion", (213, 94, 0)),
            ClassInfo("patches", (86, 180, 233)),
            ClassInfo("scratches", (230, 159, 0)),
        ),
        homepage="https://github.com/DHW-Master/NEU_Seg",
        citation="Dong et al.: PGA-Net: Pyramid Feature Fusion and Global Context Attention Network for "
        "Automated Surface Defect Detection, IEEE Transactions on Industrial Informatics 16(12), 2020",
        licence="none is stated",
        group_rule="",
        leak_note="96.4 % of the published test images are turned training images, and many images "
        "of two classes are others with a defect pasted in: a split must go by what the images show",
    )
    layout = ("images", "annotations")

    def samples(self, folder: Path, mask_threshold: int) -> list[RawSample]:
        """The pairs of both published splits, which the ids keep apart."""
        samples = []
        for name, published in PUBLISHED.items():
            images, masks = folder / "images" / name, folder / "annotations" / name
            for place in (images, masks):
                if not place.is_dir():
                    raise UserError(f"{place.relative_to(folder)} is missing; fetch the dataset again")
            for image, mask in pair_by_stem(image_files(images), image_files(masks), folder):
                id_ = f"{name}-{image.stem}"
                samples.append(RawSample(id_, image, id_, partial(_read_mask, mask), published))
        return samples

    def notes(self, folder: Path, measured: Sequence[Measured], mask_threshold: int) -> tuple[str, ...]:
        """How large the published splits are; they are not used as a split."""
        sizes = {name: sum(item.id.startswith(f"{name}-") for item in measured) for name in PUBLISHED}
        return (
            f"the published splits, {sizes['training']} training and {sizes['test']} test images, are read "
            "as one set; the ids say which split an image came from",
        )


def _read_mask(path: Path, height: int, width: int) -> RawMask:
    return RawMask(decode_grey(read_whole(path), path))
