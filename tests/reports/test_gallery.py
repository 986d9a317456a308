"""Which images are shown, and what their panels hold."""

import numpy as np

from dbrnet.data.dataset import ClassInfo, Dataset, decode_image
from dbrnet.evaluation.defect_metrics import no_defects
from dbrnet.evaluation.metrics import IGNORE_INDEX
from dbrnet.evaluation.predictions import Evaluation, ImageResult, Predict, evaluate
from dbrnet.reports.gallery import ERROR_KINDS, build_gallery, choose, error_mask


def result(id_: str, group: str, hits: int, missed: int) -> ImageResult:
    confusion = np.array([[50, 0], [missed, hits]], np.int64)
    return ImageResult(id_, group, confusion, 1.0, no_defects(1))


def test_worst_median_and_best_by_defect_iou() -> None:
    images = tuple(result(f"p{n}", f"g{n}", hits=n, missed=10 - n) for n in range(9))
    chosen = choose(Evaluation(("background", "dent"), (*images, result("clean", "x", 0, 0))), 2)
    ids = {kind: [one.id for one in results] for kind, results in chosen.items()}
    assert ids == {"worst": ["p0", "p1"], "median": ["p3", "p4"], "best": ["p8", "p7"]}


def test_no_two_images_of_one_group_and_ties_by_wrong_pixels() -> None:
    images = (
        result("a", "1", 0, 5),
        result("b", "1", 0, 4),
        result("c", "2", 0, 9),
        *(result(f"p{n}", f"g{n}", 10 + n, 5) for n in range(4)),
    )
    chosen = choose(Evaluation(("background", "dent"), images), 2)
    assert [one.id for one in chosen["worst"]] == ["c", "a"]
    shown = [one.group for results in chosen.values() for one in results]
    assert len(shown) == len(set(shown)) == 6


def test_few_images_are_shared_out_and_none_repeats() -> None:
    images = tuple(result(f"p{n}", f"g{n}", n, 5) for n in range(2))
    chosen = choose(Evaluation(("background", "dent"), images), 4)
    assert [[one.id for one in results] for results in chosen.values()] == [["p0"], [], ["p1"]]
    assert choose(Evaluation(("background", "dent"), (result("clean", "x", 0, 0),)), 4)["worst"] == []


def test_error_kinds() -> None:
    truth = np.array([[0, 1, 1, 0, 1, IGNORE_INDEX]], np.uint8)
    prediction = np.array([[0, 1, 0, 2, 2, 1]], np.uint8)
    names = [ERROR_KINDS[kind].name for kind in error_mask(truth, prediction)[0]]
    assert names == ["right", "found", "missed", "false positive", "wrong class", "right"]


def test_panels_show_truth_prediction_and_errors(dataset: Dataset, predict: Predict) -> None:
    evaluation = evaluate(predict, dataset, ["p2", "p5"])
    gallery = build_gallery(evaluation, dataset, predict, 1)
    missed, wide = gallery["worst"][0], gallery["best"][0]
    assert (missed.result.id, missed.wide, wide.result.id, wide.wide) == ("p2", False, "p5", True)
    assert [info.name for info in missed.classes] == ["scratch"]
    panels = {name: decode_image(data, name) for name, data in missed.panels.items()}
    assert len({panel.shape for panel in panels.values()}) == 1
    scale = panels["image"].shape[1] / 24
    at = int(5.5 * scale), int(6 * scale)  # inside the scratch
    image, truth, prediction, errors = (panel[at].astype(int) for panel in panels.values())
    assert np.abs(image - prediction).max() < 8  # nothing was predicted, nothing is drawn
    _nearer(truth, dataset.card.classes[1], image)
    _nearer(errors, ERROR_KINDS[2], image)


def _nearer(pixel: np.ndarray, info: ClassInfo, plain: np.ndarray) -> None:
    color = np.array(info.color)
    assert np.abs(pixel - color).sum() < np.abs(plain - color).sum() - 60
