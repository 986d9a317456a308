"""A picture for the docs: test images with their labels, a model's predictions, and what it found and missed.

    python benchmarks/picture.py DATASET SPLIT MODEL --out docs/predictions.jpg --percentiles 25 40 55 65 75 90

MODEL is a model.pt or an exported .onnx. Of the test images with defects, the ones at the given percentiles of their
mean IoU over defects are shown, no two of one group, so that the picture is no choice of the lucky ones. Images that
are wide lie below each other, others side by side.
"""

import argparse
from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
from matplotlib import font_manager
from PIL import Image as Canvas
from PIL import ImageDraw, ImageFont

from dbrnet.data import open_dataset
from dbrnet.data.dataset import ClassInfo, Dataset
from dbrnet.data.split import Split
from dbrnet.evaluation.predictions import ImageResult, evaluate, predict_one
from dbrnet.files import write_atomically
from dbrnet.inference.runtimes import open_model
from dbrnet.inference.runtimes.base import Model
from dbrnet.overlay import blend
from dbrnet.reports.gallery import ERROR_KINDS, error_mask
from dbrnet.reports.html import WIDE

ROWS = ("label", "prediction", "errors")
GAP, LABEL_WIDTH, LEGEND_HEIGHT = 6, 76, 28  # pixels


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("split", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--percentiles", type=float, nargs="+", default=[25, 40, 55, 65, 75, 90])
    parser.add_argument("--edge", type=int, default=150, help="pixels of an image's shorter edge; of a wide one's half")
    arguments = parser.parse_args()

    dataset = open_dataset(arguments.dataset)
    model = open_model(arguments.model)
    defective = [id_ for id_ in Split.load(arguments.split).ids["test"] if dataset.by_id[id_].classes]
    evaluation = evaluate(model.predict, dataset, defective)
    chosen = list(at_percentiles(evaluation.images, arguments.percentiles))
    write_atomically(arguments.out, draw(chosen, dataset, model, arguments.edge))
    for image in chosen:
        print(f"{image.id}: IoU over defects {100 * (image.scores.miou_defects or 0):.0f} %")


def at_percentiles(images: Sequence[ImageResult], percentiles: Sequence[float]) -> Iterator[ImageResult]:
    """The images at these percentiles of mean IoU over defects, or the next better ones of other groups."""
    ranked = sorted(images, key=lambda image: (image.scores.miou_defects or 0.0, image.id))
    seen: set[str] = set()
    for percentile in sorted(percentiles):
        first = round(percentile / 100 * (len(ranked) - 1))
        image = next((image for image in ranked[first:] if image.group not in seen), None)
        if image:
            seen.add(image.group)
            yield image


def draw(images: Sequence[ImageResult], dataset: Dataset, model: Model, edge: int) -> bytes:
    """A JPEG of the images, each with its label, prediction and errors."""
    panels = [_panels(image, dataset, model, edge) for image in images]
    width, height = panels[0][0].size
    wide = width / height >= WIDE
    columns, rows = (len(ROWS), len(panels)) if wide else (len(panels), len(ROWS))
    left, top = (0, LEGEND_HEIGHT) if wide else (LABEL_WIDTH, 0)
    size = left + columns * (width + GAP), top + rows * (height + GAP) + LEGEND_HEIGHT
    canvas = Canvas.new("RGB", size, "white")
    pen, font = ImageDraw.Draw(canvas), ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 13)
    for place, of_image in enumerate(panels):
        for kind, panel in enumerate(of_image):
            column, row = (kind, place) if wide else (place, kind)
            canvas.paste(panel, (left + column * (width + GAP), top + row * (height + GAP)))
    for kind, text in enumerate(ROWS):
        at = (kind * (width + GAP) + 2, 18) if wide else (2, kind * (height + GAP) + height // 2)
        pen.text(at, text, fill="black", font=font, anchor="ls")
    shown = sorted({label for image in images for label in dataset.by_id[image.id].classes})
    _legend(pen, font, [*(dataset.card.classes[label] for label in shown), *ERROR_KINDS[1:]], left, size[1] - 20)
    file = BytesIO()
    canvas.save(file, "JPEG", quality=80)
    return file.getvalue()


def _panels(result: ImageResult, dataset: Dataset, model: Model, edge: int) -> list[Canvas.Image]:
    sample, classes = dataset.by_id[result.id], dataset.card.classes
    image, label = dataset.pair(sample)
    prediction, _ = predict_one(model.predict, image)
    dimmed = (image // 2 + 40).astype(np.uint8)
    drawn = (
        blend(image, label, classes),
        blend(image, prediction, classes),
        blend(dimmed, error_mask(label, prediction), ERROR_KINDS, opacity=0.6),
    )
    ratio = sample.width / sample.height
    size = (round(edge * ratio / 2), edge // 2) if ratio >= WIDE else (edge, edge)
    return [Canvas.fromarray(panel).resize(size, Canvas.Resampling.LANCZOS) for panel in drawn]


def _legend(
    pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont, entries: Sequence[ClassInfo], left: int, top: int
) -> None:
    for info in entries:
        pen.rectangle((left, top, left + 11, top + 11), fill=info.color, outline="grey")
        pen.text((left + 17, top), info.name, fill="black", font=font, anchor="lt")
        left += 17 + round(pen.textlength(info.name, font=font)) + 18


if __name__ == "__main__":
    main()
