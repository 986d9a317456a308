"""Run a model over the images of a split at their native size, and keep the counts that the scores follow from."""

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import Dataset, Image, Mask
from dbrnet.errors import UserError
from dbrnet.evaluation.defect_metrics import DefectCounts, count_defects, no_defects
from dbrnet.evaluation.metrics import Confusion, Scores, confusion_matrix
from dbrnet.progress import progress
from dbrnet.records import MatchFacts

# RGB images uint8 [N, H, W, 3] in; class ids uint8 [N, H, W] and their confidences float32 [N, H, W] out.
Predict = Callable[[NDArray[np.uint8]], tuple[NDArray[np.uint8], NDArray[np.float32]]]

IMAGES_TABLE = "images.csv"
TABLE_COLUMNS = (
    *("id", "group", "miou", "miou_defects", "pixel_accuracy"),
    *("defect_pixels", "missed_pixels", "false_pixels", "confused_pixels"),
    *("true_defects", "found_defects", "false_defects", "confidence"),
)


@dataclass(frozen=True)
class ImageResult:
    """The counts of one image: its confusion matrix, and its defects."""

    id: str
    group: str
    confusion: Confusion  # [C, C], this image's pixels alone
    confidence: float  # mean over its pixels
    defects: DefectCounts  # its defects and outlines

    @property
    def defect_pixels(self) -> int:
        """Defect pixels in the ground truth."""
        return int(self.confusion[1:].sum())

    @property
    def flagged_pixels(self) -> int:
        """Pixels predicted to be any defect."""
        return int(self.confusion[:, 1:].sum())

    @property
    def missed_pixels(self) -> int:
        """Defect pixels predicted as background."""
        return int(self.confusion[1:, 0].sum())

    @property
    def false_pixels(self) -> int:
        """Background pixels predicted as a defect."""
        return int(self.confusion[0, 1:].sum())

    @property
    def confused_pixels(self) -> int:
        """Defect pixels predicted as another defect."""
        defects = self.confusion[1:, 1:]
        return int(defects.sum() - defects.trace())

    @property
    def wrong_pixels(self) -> int:
        """Pixels of another class than the ground truth's."""
        return self.missed_pixels + self.false_pixels + self.confused_pixels

    @property
    def true_defects(self) -> int:
        """Connected defects in the ground truth."""
        return int(self.defects.true.sum())

    @property
    def found_defects(self) -> int:
        """Those of them that were found."""
        return int(self.defects.found.sum())

    @property
    def predicted_defects(self) -> int:
        """Connected defects in the prediction."""
        return int(self.defects.predicted.sum())

    @property
    def false_defects(self) -> int:
        """Those of them that are not true, or are of another class."""
        return self.predicted_defects - int(self.defects.correct.sum())

    @cached_property
    def scores(self) -> Scores:
        """The image's own scores, over the classes present or predicted in it, named by their ids."""
        return Scores.from_confusion(self.confusion, [str(index) for index in range(len(self.confusion))])


@dataclass(frozen=True)
class Evaluation:
    """The results of all images of a split."""

    classes: tuple[str, ...]  # names in id order, the background first
    images: tuple[ImageResult, ...]

    @cached_property
    def confusion(self) -> Confusion:
        """Pixels over the whole set by true class (row) and predicted class (column), [C, C]."""
        return np.sum([image.confusion for image in self.images], axis=0, dtype=np.int64)

    @cached_property
    def scores(self) -> Scores:
        """The set's scores, from the set's confusion matrix and not as a mean over images."""
        return Scores.from_confusion(self.confusion, self.classes)

    @property
    def defect_free(self) -> tuple[ImageResult, ...]:
        """The images without a defect in the ground truth."""
        return tuple(image for image in self.images if not image.defect_pixels)

    @property
    def false_positives(self) -> tuple[ImageResult, ...]:
        """The defect-free images with at least one pixel predicted to be a defect."""
        return tuple(image for image in self.defect_free if image.flagged_pixels)

    @property
    def defective(self) -> tuple[ImageResult, ...]:
        """The images with a defect in the ground truth."""
        return tuple(image for image in self.images if image.defect_pixels)

    @property
    def missed(self) -> tuple[ImageResult, ...]:
        """The defective images in which no pixel at all is predicted to be a defect."""
        return tuple(image for image in self.defective if not image.flagged_pixels)

    def images_by_class(self) -> dict[str, int]:
        """The number of images that hold a class, by its name."""
        held = np.sum([image.confusion.any(axis=1) for image in self.images], axis=0)
        return dict(zip(self.classes, held.tolist(), strict=True))

    def table(self) -> str:
        """One CSV row per image: id, group, scores, wrong pixels by kind, defects, mean confidence."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(TABLE_COLUMNS)
        for image in self.images:
            shares = (image.scores.miou, image.scores.miou_defects, image.scores.pixel_accuracy)
            pixels = (image.defect_pixels, image.missed_pixels, image.false_pixels, image.confused_pixels)
            defects = (image.true_defects, image.found_defects, image.false_defects)
            rounded = ("" if share is None else f"{share:.6f}" for share in shares)
            writer.writerow((image.id, image.group, *rounded, *pixels, *defects, f"{image.confidence:.6f}"))
        return text.getvalue()


def evaluate(
    predict: Predict, dataset: Dataset, ids: Sequence[str], rules: MatchFacts | None = None, label: str = "evaluate"
) -> Evaluation:
    """Predict the images `ids` of `dataset` one by one, at native size, and compare them with their masks.

    `rules`: when a defect counts as found; None leaves the counts of defects at zero, where only pixels matter.
    `label`: the name of the work in its progress bar. Raises `UserError` where there is no image to evaluate, or a
    mask does not fit the dataset's classes.
    """
    if not ids:
        raise UserError(f"{dataset.root}: no image to evaluate; give the split a larger share and split again")
    results = []
    for id_ in progress(ids, len(ids), label):
        sample = dataset.by_id[id_]
        truth = dataset.mask(sample)
        mask, confidence = predict_one(predict, dataset.image(sample))
        classes = len(dataset.card.classes)
        try:
            confusion = confusion_matrix(mask, truth, classes)
            if not confusion.any():
                raise ValueError("no labelled pixel to score")
        except ValueError as error:
            raise UserError(f"{dataset.root / sample.mask}: {error}; ingest the dataset again") from None
        defects = count_defects(mask, truth, classes, rules) if rules else no_defects(classes - 1)
        results.append(ImageResult(id_, sample.group, confusion, float(confidence.mean()), defects))
    return Evaluation(tuple(info.name for info in dataset.card.classes), tuple(results))


def predict_one(predict: Predict, image: Image) -> tuple[Mask, NDArray[np.float32]]:
    """The class ids [H, W] and confidences [H, W] of one image [H, W, 3]."""
    masks, confidences = predict(image[None])
    return masks[0], confidences[0]
