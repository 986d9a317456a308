import numpy as np
import pytest

from dbrnet.audit.nn_baseline import repeatability
from dbrnet.audit.result import audit_splits, search
from dbrnet.audit.symmetry import SYMMETRIES
from tests.audit.conftest import Make, steel


def test_where_all_is_copied_the_look_up_is_perfect(make: Make) -> None:
    images = {f"train{seed}": steel(seed) for seed in range(8)}
    copies = {}
    for seed in range(8):
        image, mask = images[f"train{seed}"]
        laid = SYMMETRIES[seed]
        copies[f"test{seed}"] = (np.ascontiguousarray(laid.apply(image)), np.ascontiguousarray(laid.apply(mask)))
    dataset = make(images | copies)
    result = audit_splits(dataset, *search(dataset), {"train": list(images), "test": list(copies)})
    assert result.nn_baseline is not None
    assert result.nn_baseline.miou > 0.99
    assert result.leaking == {"test": 8}
    assert result.groups == 8
    assert result.group_sizes == {2: 8}


def test_where_nothing_is_copied_the_look_up_is_poor(make: Make) -> None:
    images = {f"p{seed}": steel(seed) for seed in range(16)}
    ids = list(images)
    dataset = make(images)
    result = audit_splits(dataset, *search(dataset), {"train": ids[:8], "test": ids[8:]})
    assert result.nn_baseline is not None
    assert result.nn_baseline.miou < 0.6
    assert result.leaking == {"test": 0}
    assert result.repeatability is None


def test_labels_that_disagree_are_measured(make: Make) -> None:
    image, mask = steel(1)
    other = np.roll(mask, 6, axis=1)
    dataset = make({"a": (image, mask), "b": (image, other)} | {f"p{seed}": steel(seed) for seed in (2, 3)})
    _, groups = search(dataset)
    found = repeatability(dataset, groups.links)
    scores = found.scores
    assert scores is not None
    overlap = ((mask > 0) & (other > 0)).sum() / ((mask > 0) | (other > 0)).sum()
    assert scores.miou_defects is not None
    assert abs(scores.miou_defects - overlap) < 0.02
    assert list(found.agreement.values()) == [pytest.approx(overlap, abs=0.02)]


def test_swapped_labels_stand_first_and_empty_masks_agree(make: Make) -> None:
    swapped = np.array([0, 2, 1], np.uint8)
    images = {f"p{seed}": steel(seed) for seed in range(4)}
    copies = {f"q{seed}": images[f"p{seed}"] for seed in range(4)}
    copies["q2"] = images["p2"][0], swapped[images["p2"][1]]
    copies["q3"] = images["p3"][0], np.roll(images["p3"][1], 9, axis=0)
    empty = np.zeros_like(images["p0"][1])
    images["p0"], copies["q0"] = (images["p0"][0], empty), (copies["q0"][0], empty)
    dataset = make(images | copies)
    fingerprints, groups = search(dataset)
    result = audit_splits(dataset, fingerprints, groups, {})
    agreement = {link.first: share for link, share in result.agreement.items()}
    assert (agreement["p0"], agreement["p1"], agreement["p2"]) == (1, 1, 0)
    assert result.labelled_differently[0].first == "p2"
    assert result.to_record().labelled_differently == len(result.labelled_differently)
