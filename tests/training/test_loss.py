import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dbrnet.training.loss import OhemCrossEntropy
from tests.training.conftest import ALONE


def count_by_hand(logits: NDArray[np.float64], target: NDArray[np.int64], threshold: float) -> float:
    """The same, one pixel at a time."""
    losses = []
    for image, labels in zip(logits, target, strict=True):
        for (y, x), label in np.ndenumerate(labels):
            if label != 255:
                scores = np.exp(image[:, y, x])
                losses.append(-np.log(scores[label] / scores.sum()))
    losses.sort(reverse=True)
    hard = [loss for loss in losses if np.exp(-loss) < threshold]
    least = max(1, len(losses) // 16)
    return float(np.mean(hard if len(hard) >= least else losses[:least]))


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("margin", [0.0, 2.0, 8.0])  # from all pixels hard to nearly none
def test_the_loss_equals_a_count_by_hand(threshold: float, margin: float) -> None:
    rng = np.random.default_rng(1)
    target = rng.integers(0, 4, (2, 9, 11))
    logits = rng.standard_normal((2, 4, 9, 11)) + margin * (np.arange(4)[:, None, None] == target[:, None])
    target[rng.random(target.shape) < 0.2] = 255
    loss = OhemCrossEntropy(threshold, ALONE)(torch.from_numpy(logits), torch.from_numpy(target))
    assert loss.item() == pytest.approx(count_by_hand(logits, target, threshold), rel=1e-5)


def test_a_batch_without_a_valid_pixel_has_zero_loss_and_gradient() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = OhemCrossEntropy(0.7, ALONE)(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_easy_pixels_get_no_gradient() -> None:
    logits = torch.zeros(1, 2, 1, 32)
    logits[0, 0] = 9.0  # sure of class 0 ...
    logits[0, :, 0, :4] = 0.0  # ... but for four pixels
    logits.requires_grad_()
    OhemCrossEntropy(0.7, ALONE)(logits, torch.zeros(1, 1, 32, dtype=torch.long)).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 0, :4].abs().min() > 0
    assert not logits.grad[0, :, 0, 4:].any()
