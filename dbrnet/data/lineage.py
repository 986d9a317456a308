"""Whether a dataset and a split are those of a training: otherwise a network is scored on what it learned."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbrnet.data.dataset import Dataset
from dbrnet.data.split import SPLIT_TABLE
from dbrnet.errors import UserError
from dbrnet.files import sha256_file


def require_trained_on(lineage: Mapping[str, Any], dataset: Dataset, split: Path) -> None:
    """Raise `UserError` unless the training of `lineage` (train.json) saw this dataset and this split.

    Told by the dataset's content hash and by the SHA-256 of split.csv: what the lineage says of leaks is true
    of that split alone.
    """
    trained, content = lineage["dataset"]["content_hash"], dataset.card.content_hash
    if trained != content:
        raise UserError(
            f"{dataset.root} holds other images (content {content[:8]}) than the network was trained on "
            f"({trained[:8]}), and its test split may hold images learned from; "
            "give the dataset of that training, or train again"
        )
    table = split / SPLIT_TABLE
    if not table.is_file():
        raise UserError(f"{table} does not exist; give the split of that training")
    trained, content = lineage["split"].get("sha256"), sha256_file(table)  # an earlier version noted none
    if trained != content:
        raise UserError(
            f"{table} (SHA-256 {content[:8]}) is not the split that the network was trained on "
            f"({trained[:8] if trained else 'not noted'}), and its test split may hold images learned from; "
            "give the split of that training, or train again"
        )
