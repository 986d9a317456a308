import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from dbrnet.training.loss import KIND_WEIGHT, make_loss
from dbrnet.training.recipe import LossName
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
    loss = make_loss("ohem", threshold, ALONE, 2)(torch.from_numpy(logits), torch.from_numpy(target))
    assert loss.item() == pytest.approx(count_by_hand(logits, target, threshold), rel=1e-5)


def dice_by_hand(probability: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    return float(1 - (2 * probability[truth].sum() + 1) / (probability.sum() + truth.sum() + 1))


def test_the_other_losses_equal_a_count_by_hand() -> None:
    rng = np.random.default_rng(2)
    logits, target = rng.standard_normal((2, 4, 9, 11)), rng.integers(0, 3, (2, 9, 11))  # class 3 is absent
    target[rng.random(target.shape) < 0.2] = 255
    valid = target != 255
    scores = np.exp(logits)
    share = np.moveaxis(scores / scores.sum(1, keepdims=True), 1, -1)[valid]  # [n, 4]
    labels = target[valid]
    plain = -np.log(share[np.arange(len(labels)), labels])
    dice = np.mean([dice_by_hand(share[:, label], labels == label) for label in (1, 2)])
    whether = -np.log(np.where(labels > 0, 1 - share[:, 0], share[:, 0])).mean()
    of_defects = -np.log(share / (1 - share[:, :1]))
    which = np.mean([of_defects[labels == label, label].mean() for label in (1, 2)])
    expected: dict[LossName, float] = {
        "ce": plain.mean(),
        "ce+dice": plain.mean() + dice,
        "hierarchical": whether + dice_by_hand(1 - share[:, 0], labels > 0) + KIND_WEIGHT * which,
    }
    for name, value in expected.items():
        loss = make_loss(name, 1.0, ALONE, 2)(torch.from_numpy(logits), torch.from_numpy(target))
        assert loss.item() == pytest.approx(value, rel=1e-6), name


def test_of_one_class_of_defects_there_is_nothing_to_tell_apart() -> None:
    logits, target = torch.randn(1, 2, 5, 5), torch.randint(0, 2, (1, 5, 5))
    loss = make_loss("hierarchical", 1.0, ALONE, 2)(logits, target)
    assert loss.item() == pytest.approx(make_loss("ce+dice", 1.0, ALONE, 2)(logits, target).item(), rel=1e-5)


@pytest.mark.parametrize("name", ["ohem", "ce", "ce+dice", "hierarchical"])
def test_a_batch_without_a_valid_pixel_has_zero_loss_and_gradient(name: LossName) -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    loss = make_loss(name, 0.7, ALONE, 2)(logits, torch.full((1, 4, 4), 255))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_easy_pixels_get_no_gradient() -> None:
    logits = torch.zeros(1, 2, 1, 32)
    logits[0, 0] = 9.0  # sure of class 0 ...
    logits[0, :, 0, :4] = 0.0  # ... but for four pixels
    logits.requires_grad_()
    make_loss("ohem", 0.7, ALONE, 2)(logits, torch.zeros(1, 1, 32, dtype=torch.long)).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 0, :4].abs().min() > 0
    assert not logits.grad[0, :, 0, 4:].any()
