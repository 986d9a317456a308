from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dbrnet.data.dataset import Dataset
from dbrnet.data.lineage import require_trained_on
from dbrnet.data.split import SPLIT_TABLE, split_samples
from dbrnet.errors import UserError
from dbrnet.files import sha256_file
from dbrnet.records import TrainRecord
from tests.data.test_split import make_dataset, strips
from tests.reports.examples import change, train


@pytest.fixture
def trained(tmp_path: Path) -> tuple[TrainRecord, Dataset, Path]:
    """A lineage, and the dataset and the split that it speaks of."""
    dataset = make_dataset(strips(60))
    groups = {sample.id: sample.group for sample in dataset.samples}
    split_samples(dataset, groups, kind="groups", fractions=(0.6, 0.2, 0.2), seed=0).save(tmp_path)
    table = sha256_file(tmp_path / SPLIT_TABLE)
    lineage = change(train(), dataset__content_hash=dataset.card.content_hash, split__sha256=table)
    return lineage, dataset, tmp_path


def test_the_data_of_the_training_are_taken(trained: tuple[TrainRecord, Dataset, Path]) -> None:
    require_trained_on(*trained)


def moved(table: str) -> str:
    """One image of the train split, scored as test."""
    return table.replace(",train,", ",test,", 1)


@pytest.mark.parametrize("change", [moved, lambda table: table + "\n"])
def test_another_split_is_refused(trained: tuple[TrainRecord, Dataset, Path], change: Callable[[str], str]) -> None:
    table = trained[2] / SPLIT_TABLE
    table.write_text(change(table.read_text()))
    with pytest.raises(UserError, match=r"split\.csv \(SHA-256 \w{8}\) is not the split .* learned from"):
        require_trained_on(*trained)


def test_other_images_are_refused(trained: tuple[TrainRecord, Dataset, Path]) -> None:
    lineage, dataset, split = trained
    other = replace(dataset, card=replace(dataset.card, content_hash="other" * 13))
    with pytest.raises(UserError, match=r"made-up holds other images \(content otherot.*train again"):
        require_trained_on(lineage, other, split)
