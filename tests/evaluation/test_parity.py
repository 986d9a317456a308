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


def test_equal_outputs_have_no_distance(dataset: Dataset, reference: PredictWithLogits) -> None:
    ids = [sample.id for sample in dataset.samples]
    (parity,) = measure_parity(reference, {"same": reference}, dataset, ids).values()
    assert (parity.max_logit_difference, parity.differing_pixels, parity.miou_change) == (0, 0, 0)
    assert {value for value in parity.iou_change.values() if value is not None} == {0}
    assert parity.images == len(ids)


def test_each_runtime_is_compared_with_the_reference(
    dataset: Dataset, reference: PredictWithLogits, predict: Predict
) -> None:
    ids = [sample.id for sample in dataset.samples]

    def blind(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Predicts only background."""
        mask, logits = reference(images)
        return np.zeros_like(mask), logits + np.float32(0.25)

    parity = measure_parity(reference, {"same": reference, "blind": blind}, dataset, ids)
    truth = evaluate(predict, dataset, ids)
    flagged = sum(image.flagged_pixels for image in truth.images)
    pixels = int(truth.confusion.sum())
    blind_scores = evaluate(lambda images: (blind(images)[0], predict(images)[1]), dataset, ids).scores
    assert parity["same"].scores == truth.scores
    assert parity["blind"].scores == blind_scores
    assert parity["blind"].differing_pixels == pytest.approx(flagged / pixels)
    assert parity["blind"].max_logit_difference == pytest.approx(0.25)
    assert parity["blind"].miou_change == pytest.approx(blind_scores.miou - truth.scores.miou)
    change = parity["blind"].iou_change["scratch"]
    assert change == pytest.approx(-(truth.scores.iou["scratch"] or 0))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(lambda mask, logits: (mask[:, :-1], logits), "answers"), (lambda mask, logits: (mask, logits[:, :2]), "logits")],
)
def test_outputs_of_another_shape_are_an_error(
    dataset: Dataset, reference: PredictWithLogits, spoil: Callable[..., Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        measure_parity(reference, {"odd": lambda images: spoil(*reference(images))}, dataset, ["p0"])


def test_nan_in_the_logits_is_kept(dataset: Dataset, reference: PredictWithLogits) -> None:
    def broken(images: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        mask, logits = reference(images)
        return mask, np.where(images[0, 0, 0, 0] == 10, np.float32("nan"), logits)

    (parity,) = measure_parity(reference, {"broken": broken}, dataset, ["p0", "p1", "p2"]).values()
    assert np.isnan(parity.max_logit_difference)
    assert parity.record("fp32").max_logit_difference is None


def test_no_image_is_an_error(dataset: Dataset, reference: PredictWithLogits) -> None:
    with pytest.raises(ValueError, match="at least one image"):
        measure_parity(reference, {}, dataset, [])
