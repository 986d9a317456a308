"""Two models on the same images: the difference, and the images that show it."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from dbrnet.data.dataset import Dataset, decode_image
from dbrnet.evaluation.comparison import choose_disagreements, compare
from dbrnet.evaluation.defect_metrics import no_defects
from dbrnet.evaluation.figures import estimates
from dbrnet.evaluation.predictions import Evaluation, ImageResult, Predict, evaluate
from dbrnet.reports.gallery import show_disagreements
from tests.evaluation.conftest import RULES
from tests.evaluation.random_masks import NAMES, evaluation, width

ALL = tuple(f"p{number}" for number in range(6))


def results(wrong: list[int], groups: str = "") -> Evaluation:
    """Images of 100 pixels with so many wrong ones each; a group a letter, or each its own."""
    images = (
        ImageResult(
            f"p{number:02}",
            groups[number] if groups else str(number),
            np.array([[50, 0], [missed, 50 - missed]], np.int64),
            1.0,
            no_defects(1),
        )
        for number, missed in enumerate(wrong)
    )
    return Evaluation(("background", "dent"), tuple(images))


def test_the_paired_difference_has_a_narrower_interval() -> None:
    random = np.random.default_rng(0)
    hard = random.integers(5, 45, 80)  # what makes an image hard does so for both
    candidate, champion = (results((hard + random.integers(-3, 4, 80)).tolist()) for _ in range(2))
    comparison = compare(candidate, champion, 0.95)
    own = estimates(candidate, 0.95)["miou"]
    other, difference = comparison.figures["miou"], comparison.difference["miou"]
    assert difference.value == pytest.approx(own.value - other.value)  # type: ignore[operator]
    assert width(difference) < np.hypot(width(own), width(other)) / 3


def test_both_models_are_scored_as_each_alone() -> None:
    candidate, champion = evaluation(range(10), 5), evaluation(range(10), 5)
    same = compare(candidate, champion, 0.9)
    assert same.figures == estimates(champion, 0.9)
    for name, one in same.difference.items():
        assert one.value in (None, 0), name
        assert one.low in (None, 0)
    other = Evaluation(NAMES, tuple(reversed(champion.images)))
    with pytest.raises(ValueError, match="same images"):
        compare(candidate, other, 0.9)


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

    candidate, champion = evaluate(predict, dataset, ALL, RULES), evaluate(perfect, dataset, ALL, RULES)
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
