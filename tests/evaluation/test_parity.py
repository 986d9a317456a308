from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from dbrnet.data.dataset import Dataset
from dbrnet.evaluation.parity import PredictWithLogits, measure_parity
from dbrnet.evaluation.predictions import Predict, evaluate


@pytest.fixture
def reference(predict: Predict) -> PredictWithLogits:
    """The known predictor, with logits of 1 for its class and 0 for the others."""

    def run(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        mask, _ = predict(images)
        return mask, (mask[:, None] == np.arange(4)[None, :, None, None]).astype(np.float32)

    return run


def test_the_same_answers_are_at_no_distance(dataset: Dataset, reference: PredictWithLogits) -> None:
    ids = [sample.id for sample in dataset.samples]
    (parity,) = measure_parity(reference, {"same": reference}, dataset, ids).values()
    assert (parity.max_logit_difference, parity.differing_pixels, parity.miou_change) == (0, 0, 0)
    assert {value for value in parity.iou_change.values() if value is not None} == {0}
    assert parity.images == len(ids)


def test_each_runtime_is_held_against_the_reference(
    dataset: Dataset, reference: PredictWithLogits, predict: Predict
) -> None:
    ids = [sample.id for sample in dataset.samples]

    def blind(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Sees nothing, and is sure of it."""
        mask, logits = reference(images)
        return np.zeros_like(mask), logits + np.float32(0.25)

    found = measure_parity(reference, {"same": reference, "blind": blind}, dataset, ids)
    truth = evaluate(predict, dataset, ids)
    flagged = sum(image.flagged_pixels for image in truth.images)
    pixels = int(truth.confusion.sum())
    blind_scores = evaluate(lambda images: (blind(images)[0], predict(images)[1]), dataset, ids).scores
    assert found["same"].scores == truth.scores
    assert found["blind"].scores == blind_scores
    assert found["blind"].differing_pixels == pytest.approx(flagged / pixels)
    assert found["blind"].max_logit_difference == pytest.approx(0.25)
    assert found["blind"].miou_change == pytest.approx(blind_scores.miou - truth.scores.miou)
    change = found["blind"].iou_change["scratch"]
    assert change == pytest.approx(-(truth.scores.iou["scratch"] or 0))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(lambda mask, logits: (mask[:, :-1], logits), "answers"), (lambda mask, logits: (mask, logits[:, :2]), "logits")],
)
def test_answers_of_another_shape_cannot_be_compared(
    dataset: Dataset, reference: PredictWithLogits, spoil: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure_parity(reference, {"odd": lambda images: spoil(*reference(images))}, dataset, ["p0"])


def test_not_a_number_is_not_lost(dataset: Dataset, reference: PredictWithLogits) -> None:
    def broken(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        mask, logits = reference(images)
        return mask, np.where(images[0, 0, 0, 0] == 10, np.float32("nan"), logits)

    (parity,) = measure_parity(reference, {"broken": broken}, dataset, ["p0", "p1", "p2"]).values()
    assert np.isnan(parity.max_logit_difference)
    assert parity.to_dict()["max_logit_difference"] is None


def test_nothing_to_compare(dataset: Dataset, reference: PredictWithLogits) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        measure_parity(reference, {}, dataset, [])
