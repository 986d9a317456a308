"""The baseline, repeatability and the result on made-up images with and without near-duplicates."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from dbrnet.audit.matching import SYMMETRIES
from dbrnet.audit.result import audit_splits, repeatability, search
from tests.audit.conftest import Make, steel


def test_baseline_is_perfect_where_every_test_image_is_a_copy(make: Make, tmp_path: Path) -> None:
    images = {f"train{seed}": steel(seed) for seed in range(8)}
    copies = {}
    for seed, symmetry in enumerate(SYMMETRIES):
        image, mask = (np.ascontiguousarray(symmetry.apply(array)) for array in images[f"train{seed}"])
        copies[f"test{seed}"] = image, mask
    audit = audit_splits(search(make(images | copies)), {"train": list(images), "test": list(copies)})
    result = audit.result
    assert result.nn_baseline is not None
    assert result.nn_baseline.miou > 0.99
    assert (result.leaking, result.groups, result.group_sizes) == ({"test": 8}, 8, {2: 8})
    assert [balance.split for balance in audit.label_checks.balance] == ["train", "test"]
    audit.save(tmp_path)
    written = json.loads((tmp_path / "audit.json").read_text())
    assert written["nn_baseline"]["miou"] == result.nn_baseline.miou
    assert (written["groups"], written["leaking"], written["labelled_differently"]) == (8, {"test": 8}, 0)
    with (tmp_path / "links.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["evidence"] for row in rows] == ["whole image"] * 8
    assert {row["symmetry"] for row in rows} == set(map(str, SYMMETRIES))
    assert all(float(row["agreement"]) == pytest.approx(1, abs=0.05) for row in rows)


def test_baseline_is_poor_where_nothing_is_copied(make: Make) -> None:
    images = {f"p{seed}": steel(seed) for seed in range(16)}
    ids = list(images)
    result = audit_splits(search(make(images)), {"train": ids[:8], "test": ids[8:]}).result
    assert result.nn_baseline is not None
    assert result.nn_baseline.miou < 0.6
    assert result.leaking == {"test": 0}
    assert result.repeatability is None


def test_masks_that_disagree_are_measured(make: Make) -> None:
    image, mask = steel(1)
    other = np.roll(mask, 6, axis=1)
    dataset = make({"a": (image, mask), "b": (image, other)} | {f"p{seed}": steel(seed) for seed in (2, 3)})
    scores, agreement = repeatability(dataset, search(dataset).groups.links)
    overlap = ((mask > 0) & (other > 0)).sum() / ((mask > 0) | (other > 0)).sum()
    assert scores is not None
    assert scores.miou_defects == pytest.approx(overlap, abs=0.02)
    assert list(agreement.values()) == [pytest.approx(overlap, abs=0.02)]


def test_swapped_labels_come_first_and_empty_masks_agree(make: Make) -> None:
    swapped = np.array([0, 2, 1], np.uint8)
    images = {f"p{seed}": steel(seed) for seed in range(4)}
    copies = {f"q{seed}": images[f"p{seed}"] for seed in range(4)}
    copies["q2"] = images["p2"][0], swapped[images["p2"][1]]
    copies["q3"] = images["p3"][0], np.roll(images["p3"][1], 9, axis=0)
    empty = np.zeros_like(images["p0"][1])
    images["p0"], copies["q0"] = (images["p0"][0], empty), (copies["q0"][0], empty)
    audit = audit_splits(search(make(images | copies)), {})
    agreement = {link.first: share for link, share in audit.agreement.items()}
    assert (agreement["p0"], agreement["p1"], agreement["p2"]) == (1, 1, 0)
    assert audit.labelled_differently[0].first == "p2"
    assert audit.disputed == ("p2", "q2")  # the shifted mask of q3 still agrees in part
    assert audit.result.labelled_differently == len(audit.labelled_differently)
    assert audit.result.nn_baseline is None
    assert [balance.split for balance in audit.label_checks.balance] == ["all"]


@pytest.mark.parametrize("odd", ["a", "c", "f"])
def test_a_mask_is_disputed_by_more_than_bear_it_out(make: Make, odd: str) -> None:
    """Whichever of them the search joined the others to."""
    image, mask = steel(0)
    images = dict.fromkeys("abcdef", (image, mask)) | {odd: (image, np.roll(mask, 40, axis=1))}
    audit = audit_splits(search(make(images)), {})
    assert audit.labelled_differently
    assert audit.disputed == (odd,)


@pytest.mark.parametrize("marked", [1, 5])
def test_a_forgotten_label_is_disputed_and_an_only_one_is_not(make: Make, marked: int) -> None:
    image, mask = steel(0)
    masks = [mask] * marked + [np.zeros_like(mask)] * (6 - marked)
    images = {name: (image, each) for name, each in zip("abcdef", masks, strict=True)}
    audit = audit_splits(search(make(images)), {})
    assert audit.disputed == (("f",) if marked == 5 else ())
