from pathlib import Path

import pytest

from dbrnet.data.writer import build_dataset
from dbrnet.errors import UserError
from tests.data.conftest import build


def test_both_published_splits_are_read(neu_source: Path, tmp_path: Path) -> None:
    dataset = build("neu-seg", neu_source, tmp_path / "out")
    assert {sample.id: sample.classes for sample in dataset.samples} == {
        "test-000001": (1,),
        "test-000002": (2,),
        "training-000001": (1,),
        "training-000002": (2,),
        "training-000003": (3,),
    }
    assert dataset.card.group_rule == ""
    assert all(sample.group == sample.id for sample in dataset.samples)
    assert "turned training images" in dataset.card.leak_note
    assert {name: len(ids) for name, ids in dataset.published_splits.items()} == {"train": 3, "test": 2}


@pytest.mark.parametrize("lost", ["images/test/000001.jpg", "annotations/training/000002.png"])
def test_image_or_mask_without_the_other_is_named(neu_source: Path, tmp_path: Path, lost: str) -> None:
    (neu_source / "NEU_Seg-main" / lost).unlink()
    with pytest.raises(UserError, match=r"(000001\.png is a mask without|000002\.jpg has no mask)"):
        build("neu-seg", neu_source, tmp_path / "out")


@pytest.mark.slow
def test_real_archive(archives: Path, tmp_path: Path) -> None:
    card = build_dataset("neu-seg", archives / "neu-seg.zip", tmp_path).card
    assert card.images == 4470
    assert card.images_by_class == {
        "background": 0,
        "inclusion": 1460 + 364,
        "patches": 1448 + 360,
        "scratches": 1429 + 353,
    }
    # The published shares of the two splits, weighted by their images, to the digits they have.
    expected = {"background": (87.94, 87.55), "inclusion": (2.14, 2.49), "patches": (7.36, 7.18)}
    for name, (training, test) in expected.items():
        percent = (3630 * training + 840 * test) / 4470
        assert 100 * card.pixel_shares[name] == pytest.approx(percent, abs=0.01)
    assert "3630 training and 840 test" in card.notes[0]
