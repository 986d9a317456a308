"""The audit of the public sets, from the archives as they are downloaded."""

from collections.abc import Callable
from itertools import combinations

import pytest

from dbrnet.audit.fingerprint import take_fingerprints
from dbrnet.audit.grouping import find_groups
from dbrnet.audit.result import audit_splits, search
from dbrnet.data.dataset import Dataset

pytestmark = pytest.mark.slow

RealDataset = Callable[[str], Dataset]


def test_neu_segs_published_test_split_is_its_training_split_turned(real_dataset: RealDataset) -> None:
    dataset = real_dataset("neu-seg")
    audit = audit_splits(search(dataset), dataset.published_splits)
    result = audit.result
    assert result.leaking == {"test": 810}
    assert result.nn_baseline is not None
    assert result.nn_baseline.miou == pytest.approx(0.898, abs=0.01)
    assert result.repeatability is not None
    assert result.repeatability.miou == pytest.approx(0.916, abs=0.01)
    swapped = [link for link in audit.labelled_differently if audit.agreement[link] < 0.1]
    assert len(swapped) == pytest.approx(12, abs=3)  # one image, its two classes exchanged
    assert result.groups == pytest.approx(1036, abs=5)  # with those that were pasted over
    turned = {
        frozenset((link.first, link.second))
        for link in audit.groups.links
        if link.alignment is not None and link.alignment.score >= 0.94
    }
    assert len(dataset.samples) - len(turned) == pytest.approx(1130, abs=5)


def test_mts_tiles_are_found_without_their_names(real_dataset: RealDataset) -> None:
    dataset = real_dataset("magnetic-tile")
    assert dataset.card.groups == pytest.approx(246, abs=5)
    groups = find_groups(take_fingerprints(dataset), names=False).of
    pairs = [
        (first.group == second.group, groups[first.id] == groups[second.id])
        for first, second in combinations(dataset.samples, 2)
    ]
    same_tile = [joined for named, joined in pairs if named]
    assert sum(same_tile) / len(same_tile) > 0.98
    beyond = sum(joined for named, joined in pairs if not named)
    assert beyond < 500  # tiles that come twice under other names: each was checked by eye
