"""The images that pages show, each with its truth and answers: best, median and worst, and where two models differ."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo, Dataset, Image, Mask
from dbrnet.evaluation.metrics import IGNORE_INDEX
from dbrnet.evaluation.predictions import Evaluation, ImageResult, Predict, predict_one
from dbrnet.files import write_atomically
from dbrnet.overlay import blend
from dbrnet.records import DisagreementFacts
from dbrnet.reports.html import WIDE, jpeg

PANEL_WIDTH = 420  # pixels; twice as many for a wide one
SHOWN = 12  # disagreements, of as many groups
PANELS = "disagreements"  # the folder of the panels on which candidate and champion disagree

# Colours that stay apart for the colour-blind, and apart from "found", which is pale on purpose.
ERROR_KINDS = (
    ClassInfo("right", (0, 0, 0)),
    ClassInfo("found", (225, 225, 225)),
    ClassInfo("missed", (220, 38, 38)),
    ClassInfo("false positive", (37, 99, 235)),
    ClassInfo("wrong class", (250, 204, 21)),
)


@dataclass(frozen=True)
class GalleryImage:
    """One image as the report shows it: its result and four JPEG panels."""

    result: ImageResult
    classes: tuple[ClassInfo, ...]  # defects present in the truth or the prediction
    wide: bool
    panels: dict[str, bytes]  # caption -> JPEG


Gallery = dict[str, list[GalleryImage]]  # "worst", "median" and "best" -> images


@dataclass(frozen=True)
class Disagreement:
    """An image on which the candidate does better or worse than the champion."""

    candidate: ImageResult
    champion: ImageResult

    @property
    def change(self) -> float:
        """Wrong pixels of the champion minus those of the candidate, as a share of the counted ones; below 0: worse."""
        return (self.champion.wrong_pixels - self.candidate.wrong_pixels) / int(self.candidate.confusion.sum())


def choose(evaluation: Evaluation, count: int) -> dict[str, list[ImageResult]]:
    """Up to `count` images each of the worst, the median and the best, no two of one group.

    Ranked by mean IoU over the defects present or predicted in an image, ties by wrong pixels. A clean
    image that stays clean is not ranked. Where the groups do not suffice for `count` three times over, each
    kind gets a third of them.
    """

    def rank(image: ImageResult) -> tuple[float, int, str]:
        return image.scores.miou_defects or 0.0, -image.wrong_pixels, image.id

    ranked = sorted((image for image in evaluation.images if image.scores.miou_defects is not None), key=rank)
    groups = len({image.group for image in ranked})
    count = max(1, min(count, groups // 3))
    seen: set[str] = set()
    worst = _take(ranked, count, seen)
    best = _take(reversed(ranked), count, seen)
    middle = (len(ranked) - 1) / 2
    outward = sorted(range(len(ranked)), key=lambda index: (abs(index - middle), index))
    median = _take((ranked[index] for index in outward), count, seen)
    return {"worst": worst, "median": sorted(median, key=rank), "best": best}


def build_gallery(evaluation: Evaluation, dataset: Dataset, predict: Predict, count: int) -> Gallery:
    """Choose the images, predict them again and draw their panels."""
    return {
        kind: [_draw(image, dataset, predict) for image in images] for kind, images in choose(evaluation, count).items()
    }


def error_mask(truth: Mask, prediction: Mask) -> Mask:
    """Each pixel's place in `ERROR_KINDS`, [H, W]; ignored pixels count as right."""
    errors = np.zeros_like(truth)
    errors[(truth > 0) & (prediction == truth)] = 1
    errors[(truth > 0) & (prediction == 0)] = 2
    errors[(truth == 0) & (prediction > 0)] = 3
    errors[(truth > 0) & (prediction > 0) & (prediction != truth)] = 4
    errors[truth == IGNORE_INDEX] = 0
    return errors


def overlays(image: Image, masks: Mapping[str, Mask], classes: Sequence[ClassInfo]) -> dict[str, bytes]:
    """JPEGs of one size by caption: the image, and each mask drawn over it but for ignored pixels."""
    fitted = _fit(image)
    drawn = {"image": jpeg(fitted)}
    for caption, mask in masks.items():
        shown = _fit(mask)
        drawn[caption] = jpeg(blend(fitted, np.where(shown == IGNORE_INDEX, 0, shown).astype(np.uint8), classes))
    return drawn


def choose_disagreements(candidate: Evaluation, champion: Evaluation, count: int = SHOWN) -> list[Disagreement]:
    """Up to `count` images with the largest changes, at most one per group; the worst regression first.

    Half of the places are kept for regressions, where there are so many, so that they are seen however much better
    the candidate is.
    """
    pairs = zip(candidate.images, champion.images, strict=True)
    changed = [image for image in (Disagreement(*pair) for pair in pairs) if image.change]
    worst_first = sorted(changed, key=lambda image: (image.change, image.candidate.id))
    regressions = [image for image in worst_first if image.change < 0]
    largest = sorted(changed, key=lambda image: (-abs(image.change), image.candidate.id))
    chosen: dict[str, Disagreement] = {}
    for limit, images in ((count // 2, regressions), (count, largest)):
        for image in images:
            if len(chosen) < limit:
                chosen.setdefault(image.candidate.group, image)
    return sorted(chosen.values(), key=lambda image: (image.change, image.candidate.id))


def show_disagreements(
    chosen: Sequence[Disagreement], dataset: Dataset, candidate: Predict, champion: Predict, folder: Path
) -> tuple[DisagreementFacts, ...]:
    """Predict the chosen images again and write their panels below `folder`."""
    shown = []
    for number, disagreement in enumerate(chosen, start=1):
        result = disagreement.candidate
        sample = dataset.by_id[result.id]
        image = dataset.image(sample)
        answers = {"champion": champion, "candidate": candidate}
        masks = {name: predict_one(predict, image)[0] for name, predict in answers.items()}
        drawn = overlays(image, {"ground truth": dataset.mask(sample), **masks}, dataset.card.classes)
        panels = {caption: f"{PANELS}/{number:02}-{caption.replace(' ', '-')}.jpg" for caption in drawn}
        for caption, path in panels.items():
            write_atomically(folder / path, drawn[caption])
        shown.append(
            DisagreementFacts(
                id=result.id,
                group=result.group,
                change=disagreement.change,
                candidate_iou=result.scores.miou_defects,
                champion_iou=disagreement.champion.scores.miou_defects,
                panels=panels,
            )
        )
    return tuple(shown)


def _draw(result: ImageResult, dataset: Dataset, predict: Predict) -> GalleryImage:
    """The image, its ground truth, its prediction, and where the two differ, as four JPEGs of one size."""
    sample, classes = dataset.by_id[result.id], dataset.card.classes
    image, truth = dataset.pair(sample)
    prediction, _ = predict_one(predict, image)
    panels = overlays(image, {"ground truth": truth, "prediction": prediction}, classes)
    dimmed = (_fit(image) // 2 + 40).astype(np.uint8)
    errors = error_mask(_fit(truth), _fit(prediction))
    panels["errors"] = jpeg(blend(dimmed, errors, ERROR_KINDS, opacity=0.6))
    involved = (result.confusion.sum(axis=0) + result.confusion.sum(axis=1)).tolist()
    return GalleryImage(
        result=result,
        classes=tuple(info for info, pixels in zip(classes[1:], involved[1:], strict=True) if pixels),
        wide=sample.width / sample.height >= WIDE,
        panels=panels,
    )


def _take(results: Iterable[ImageResult], count: int, seen: set[str]) -> list[ImageResult]:
    """The first `count` results of groups not in `seen`, which grows by theirs."""
    taken: list[ImageResult] = []
    for result in results:
        if len(taken) < count and result.group not in seen:
            seen.add(result.group)
            taken.append(result)
    return taken


def _fit(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image [H, W, 3] or a mask [H, W] as large as a panel."""
    height, width = pixels.shape[:2]
    target = PANEL_WIDTH * (2 if width / height >= WIDE else 1)
    smooth = cv2.INTER_AREA if target < width else cv2.INTER_CUBIC
    size = (target, max(1, round(height * target / width)))
    interpolation = cv2.INTER_NEAREST if pixels.ndim == 2 else smooth
    return cv2.resize(pixels, size, interpolation=interpolation).astype(np.uint8, copy=False)
