"""Whether a dataset and a split are those of a training: otherwise a network is scored on what it learned."""

from pathlib import Path

from dbrnet.data.dataset import Dataset
from dbrnet.data.split import SPLIT_TABLE
from dbrnet.errors import UserError
from dbrnet.files import sha256_file
from dbrnet.records import TrainRecord


def require_trained_on(lineage: TrainRecord, dataset: Dataset, split: Path) -> None:
    """Raise `UserError` unless the training of `lineage` saw this dataset and this split.

    Compares the dataset's content hash and the SHA-256 of split.csv: what the lineage says of leaks holds for
    that split alone.
    """
    trained, content = lineage.dataset.content_hash, dataset.card.content_hash
    if trained != content:
        raise UserError(
            f"{dataset.root} holds other images (content {content[:8]}) than the network was trained on "
            f"({trained[:8]}), and its test split may hold images learned from; "
            "give the dataset of that training, or train again"
        )
    table = split / SPLIT_TABLE
    if not table.is_file():
        raise UserError(f"{table} does not exist; give the split of that training")
    trained, content = lineage.split.sha256, sha256_file(table)
    if trained != content:
        raise UserError(
            f"{table} (SHA-256 {content[:8]}) is not the split that the network was trained on "
            f"({trained[:8]}), and its test split may hold images learned from; "
            "give the split of that training, or train again"
        )
