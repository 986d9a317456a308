"""The distance of runtimes from a reference whose errors are known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dbrnet.data.dataset import Dataset
from dbrnet.evaluation.parity import measure_parity
from dbrnet.evaluation.predictions import Predict, evaluate
from tests.evaluation.conftest import IDS

Output = tuple[NDArray[np.uint8], NDArray[np.float32]]


@dataclass
class Known:
    """The known predictor, with logits of 1 for its class and 0 for the others, and what `spoil` makes of them."""

    predict: Predict
    spoil: Callable[..., Any] = lambda _images, mask, logits: (mask, logits)
    precision: str = "int8"

    def predict_with_logits(self, images: NDArray[np.uint8], /) -> Output:
        mask, _ = self.predict(images)
        logits = (mask[:, None] == np.arange(4)[None, :, None, None]).astype(np.float32)
        spoilt: Output = self.spoil(images, mask, logits)
        return spoilt


def test_equal_outputs_have_no_distance(dataset: Dataset, predict: Predict) -> None:
    (parity,) = measure_parity(Known(predict), {"same": Known(predict)}, dataset, IDS).values()
    assert (parity.max_logit_difference, parity.differing_pixels, parity.miou_change) == (0, 0, 0)
    assert {value for value in parity.iou_change.values() if value is not None} == {0}
    assert (parity.images, parity.precision) == (len(IDS), "int8")


def test_each_runtime_is_compared_with_the_reference(dataset: Dataset, predict: Predict) -> None:
    blind = Known(predict, lambda _, mask, logits: (np.zeros_like(mask), logits + np.float32(0.25)))
    measured = measure_parity(Known(predict), {"same": Known(predict), "blind": blind}, dataset, IDS)
    truth = evaluate(predict, dataset, IDS)
    flagged = sum(image.flagged_pixels for image in truth.images)
    answer = evaluate(lambda images: (np.zeros_like(predict(images)[0]), predict(images)[1]), dataset, IDS).scores
    same, other = measured["same"], measured["blind"]
    assert (same.miou, same.miou_defects, same.iou) == (truth.scores.miou, truth.scores.miou_defects, truth.scores.iou)
    assert (other.miou, other.miou_defects, other.iou) == (answer.miou, answer.miou_defects, answer.iou)
    assert other.differing_pixels == pytest.approx(flagged / int(truth.confusion.sum()))
    assert other.max_logit_difference == pytest.approx(0.25)
    assert other.miou_change == pytest.approx(answer.miou - truth.scores.miou)
    assert other.iou_change["scratch"] == pytest.approx(-(truth.scores.iou["scratch"] or 0))
    assert other.iou_change["stain"] is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda _, mask, logits: (mask[:, :-1], logits), "answers"),
        (lambda _, mask, logits: (mask, logits[:, :2]), "logits"),
    ],
)
def test_outputs_of_another_shape_are_an_error(
    dataset: Dataset, predict: Predict, spoil: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure_parity(Known(predict), {"odd": Known(predict, spoil)}, dataset, ["p0"])


def test_a_nan_among_the_logits_counts_as_not_measured(dataset: Dataset, predict: Predict) -> None:
    """Of p1 alone, between images with finite ones."""
    broken = Known(
        predict, lambda images, mask, logits: (mask, np.where(images[0, 0, 0, 0] == 10, np.float32("nan"), logits))
    )
    (parity,) = measure_parity(Known(predict), {"broken": broken}, dataset, ["p0", "p1", "p2"]).values()
    assert parity.max_logit_difference is None


def test_no_image_is_an_error(dataset: Dataset, predict: Predict) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        measure_parity(Known(predict), {}, dataset, [])
