import csv
import io

import cv2
import numpy as np
import pytest

from dbrnet.data.dataset import Dataset
from dbrnet.errors import UserError
from dbrnet.evaluation.metrics import IGNORE_INDEX
from dbrnet.evaluation.predictions import Predict, evaluate
from tests.evaluation.conftest import IDS, RULES


def test_errors_are_counted_by_class_and_image(dataset: Dataset, predict: Predict) -> None:
    evaluation = evaluate(predict, dataset, IDS, RULES)
    pixels = sum(sample.height * sample.width for sample in dataset.samples)
    # Scratch: 36 true, 12 missed in p2, 3 in p3. Dent: 16 true, 8 called scratch. Background: 2 flagged.
    expected = np.zeros((4, 4), np.int64)
    expected[1] = (15, 21, 0, 0)
    expected[2] = (0, 8, 8, 0)
    expected[0] = (pixels - 36 - 16 - 2, 2, 0, 0)
    np.testing.assert_array_equal(evaluation.confusion, expected)

    scores = evaluation.scores
    assert scores.iou["scratch"] == pytest.approx(21 / (36 + 2 + 8))
    assert scores.iou["dent"] == pytest.approx(8 / 16)
    assert scores.absent == ("stain",)
    assert scores.miou_defects == pytest.approx((21 / 46 + 0.5) / 2)
    assert evaluation.images_by_class() == {"background": 6, "scratch": 3, "dent": 2, "stain": 0}

    by_id = {image.id: image for image in evaluation.images}
    assert [image.id for image in evaluation.defect_free] == ["p0", "p1"]
    assert [image.id for image in evaluation.false_positives] == ["p1"]
    assert [image.id for image in evaluation.missed] == ["p2"]
    assert (by_id["p1"].false_pixels, by_id["p2"].missed_pixels, by_id["p3"].missed_pixels) == (2, 12, 3)
    assert (by_id["p4"].confused_pixels, by_id["p4"].missed_pixels) == (8, 0)
    assert [image.wrong_pixels for image in evaluation.images] == [0, 2, 12, 3, 8, 0]
    assert by_id["p0"].scores.miou_defects is None
    assert by_id["p5"].scores.miou == 1.0


def test_only_the_ids_given_are_evaluated(dataset: Dataset, predict: Predict) -> None:
    evaluation = evaluate(predict, dataset, ["p5", "p3"])
    assert [image.id for image in evaluation.images] == ["p5", "p3"]
    assert evaluation.confusion[1].sum() == 12


def test_the_table_has_a_row_per_image(dataset: Dataset, predict: Predict) -> None:
    rows = list(csv.DictReader(io.StringIO(evaluate(predict, dataset, IDS, RULES).table())))
    assert [row["id"] for row in rows] == list(IDS)
    assert rows[0]["miou_defects"] == ""
    assert rows[0]["group"] == rows[1]["group"] == "a"
    assert float(rows[3]["miou_defects"]) == pytest.approx(0.75)
    assert rows[4]["confused_pixels"] == "8"
    assert rows[2]["confidence"] == "0.750000"
    counted = [(row["true_defects"], row["found_defects"], row["false_defects"]) for row in rows]
    assert counted == [
        ("0", "0", "0"),
        ("0", "0", "1"),
        ("1", "0", "0"),
        ("1", "1", "0"),
        ("2", "1", "1"),
        ("1", "1", "0"),
    ]


def test_ignored_pixels_do_not_count(dataset: Dataset, predict: Predict) -> None:
    mask = dataset.mask(dataset.by_id["p2"])
    mask[mask == 1] = IGNORE_INDEX  # all pixels that would be missed
    cv2.imwrite(str(dataset.root / "masks/p2.png"), mask)
    image = evaluate(predict, dataset, ["p2"]).images[0]
    assert image.confusion.sum() == mask.size - 12
    assert image.scores.pixel_accuracy == 1.0


@pytest.mark.parametrize(("value", "message"), [(9, "class id 9"), (IGNORE_INDEX, "no labelled pixel")])
def test_an_unusable_mask_is_named(dataset: Dataset, predict: Predict, value: int, message: str) -> None:
    cv2.imwrite(str(dataset.root / "masks/p3.png"), np.full((23, 24), value, np.uint8))
    with pytest.raises(UserError, match=rf"masks/p3\.png: .*{message}"):
        evaluate(predict, dataset, IDS, RULES)


def test_a_mask_of_another_size_is_named(dataset: Dataset, predict: Predict) -> None:
    cv2.imwrite(str(dataset.root / "masks/p3.png"), np.zeros((9, 9), np.uint8))
    with pytest.raises(UserError, match=r"masks/p3\.png: .*shape"):
        evaluate(predict, dataset, IDS, RULES)


def test_nothing_to_evaluate_is_an_error(dataset: Dataset, predict: Predict) -> None:
    with pytest.raises(UserError, match="no image to evaluate"):
        evaluate(predict, dataset, [])


def test_without_rules_only_pixels_are_counted(dataset: Dataset, predict: Predict) -> None:
    pixels_only, whole = evaluate(predict, dataset, IDS), evaluate(predict, dataset, IDS, RULES)
    assert pixels_only.scores == whole.scores
    assert all(not counts.any() for image in pixels_only.images for counts in vars(image.defects).values())
