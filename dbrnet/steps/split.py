"""Step 2: divide the samples."""

import logging
from pathlib import Path

from dbrnet.data.dataset import Dataset
from dbrnet.data.split import split_samples
from dbrnet.files import atomic_directory
from dbrnet.params import SplitParams

log = logging.getLogger(__name__)


def split(params: SplitParams, dataset: Path, *, out: Path) -> None:
    """Divide the samples into train, val and test, so that every class reaches every part.

    kind `groups` keeps near-copies in one part; kind `paper` is the paper's random split, for comparison, and
    says what share of it leaks. Writes split.csv (id, part) and split.json under --out.
    """
    result = split_samples(
        Dataset.load(dataset), kind=params.kind, fractions=params.fractions, seed=params.seed
    )
    with atomic_directory(out) as folder:
        result.save(folder)
    counts = ", ".join(f"{part} {len(ids)}" for part, ids in result.parts.items())
    log.info("%s; leaks: %s", counts, result.leaks)
