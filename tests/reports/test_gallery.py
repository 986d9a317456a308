"""Which images are shown, and what their panels hold."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo, Dataset, decode_image
from dbrnet.evaluation.defect_metrics import no_defects
from dbrnet.evaluation.metrics import IGNORE_INDEX
from dbrnet.evaluation.predictions import Evaluation, ImageResult, Predict, evaluate
from dbrnet.overlay import add_legend, blend
from dbrnet.reports.gallery import (
    ERROR_KINDS,
    build_gallery,
    choose,
    choose_disagreements,
    error_mask,
    show_disagreements,
)
from tests.evaluation.conftest import IDS, RULES
from tests.evaluation.random_masks import results

CRACK = (ClassInfo("background", (9, 9, 9)), ClassInfo("crack", (255, 0, 0)))


def result(id_: str, group: str, hits: int, missed: int) -> ImageResult:
    confusion = np.array([[50, 0], [missed, hits]], np.int64)
    return ImageResult(id_, group, confusion, 1.0, no_defects(1))


def test_worst_median_and_best_by_defect_iou() -> None:
    images = tuple(result(f"p{n}", f"g{n}", hits=n, missed=10 - n) for n in range(9))
    chosen = choose(Evaluation(("background", "dent"), (*images, result("clean", "x", 0, 0))), 2)
    ids = {kind: [one.id for one in results] for kind, results in chosen.items()}
    assert ids == {"worst": ["p0", "p1"], "median": ["p3", "p4"], "best": ["p8", "p7"]}


def test_one_image_per_group_and_ties_by_wrong_pixels() -> None:
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


def test_few_images_are_shown_once_each() -> None:
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


def test_the_worst_regressions_come_first_one_per_group() -> None:
    champion = results([20] * 6, "aabbcd")
    candidate = results([25, 30, 10, 12, 21, 20], "aabbcd")
    chosen = choose_disagreements(candidate, champion)
    assert [(one.candidate.id, one.change) for one in chosen] == [("p01", -0.1), ("p04", -0.01), ("p02", 0.1)]


def test_half_of_the_places_are_kept_for_regressions() -> None:
    champion = results([20] * 20)
    better = results([19, 18, 17, *range(17)])  # p00 to p02 and p03 to p19: all better
    assert len(choose_disagreements(better, champion, 4)) == 4
    worse = results([21, 22, 23, *range(17)])
    chosen = [one.candidate.id for one in choose_disagreements(worse, champion, 4)]
    assert chosen == ["p02", "p01", "p04", "p03"]
    assert choose_disagreements(champion, champion) == []


def test_panels_show_both_models_predictions(dataset: Dataset, predict: Predict, tmp_path: Path) -> None:
    def perfect(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        number = int(images[0, 0, 0, 0]) // 10
        truth = dataset.mask(dataset.by_id[f"p{number}"])[None]
        return truth, np.ones(truth.shape, np.float32)

    candidate, champion = evaluate(predict, dataset, IDS, RULES), evaluate(perfect, dataset, IDS, RULES)
    chosen = choose_disagreements(candidate, champion)
    shown = show_disagreements(chosen, dataset, predict, perfect, tmp_path)
    assert [one.id for one in shown] == ["p2", "p4", "p3", "p1"]
    first, last = shown[0], shown[-1]
    assert first.change == -12 / (22 * 24)
    assert (first.group, first.candidate_iou, first.champion_iou) == ("b", 0.0, 1.0)
    assert (last.candidate_iou, last.champion_iou) == (0.0, None)  # clean, and flagged
    assert list(first.panels) == ["image", "ground truth", "champion", "candidate"]
    files = [path for one in shown for path in one.panels.values()]
    assert sorted(files) == sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.jpg"))
    drawn = {name: decode_image((tmp_path / path).read_bytes(), path) for name, path in first.panels.items()}
    differs = {name: np.abs(image.astype(int) - drawn["image"]).max() > 60 for name, image in drawn.items()}
    assert differs == {"image": False, "ground truth": True, "champion": True, "candidate": False}


def test_defects_are_tinted_and_outlined_and_the_background_is_unchanged() -> None:
    image = np.full((40, 60, 3), 100, np.uint8)
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 10:30] = 1
    drawn = blend(image, mask, CRACK)
    assert (drawn[mask == 0] == 100).all()
    assert drawn[10, 10].tolist() == [255, 0, 0]
    red, green, blue = drawn[15, 20].tolist()
    assert red > 150 > 100 > green == blue
    assert (image == 100).all()


def test_the_legend_names_the_classes_present() -> None:
    image = np.full((40, 60, 3), 100, np.uint8)
    assert add_legend(image, CRACK, np.array([0])) is image
    with_legend = add_legend(image, CRACK, np.array([0, 1]))
    assert with_legend.shape == (56, 60, 3)
    assert (with_legend[40:] == (255, 0, 0)).all(axis=-1).any()
