"""`dbrnet audit`: near-duplicates in a dataset, and what they mean for its splits."""

import logging
from pathlib import Path

from dbrnet.audit.result import audit_splits, search
from dbrnet.data import open_dataset
from dbrnet.data.split import Split
from dbrnet.files import atomic_directory, write_atomically
from dbrnet.reports.audit_page import PAGE, render_audit

log = logging.getLogger(__name__)


def audit(dataset: Path, *, out: Path, split: Path | None = None) -> None:
    """Find the near-duplicates, and report what they mean for the splits.

    The splits are --split's; without it those in which the dataset was published, where it was. Writes
    audit.json, links.csv (the evidence for each pair) and audit.html, which opens offline, under --out.
    """
    data = open_dataset(dataset)
    splits = Split.load(split).ids if split else data.published_splits
    result = audit_splits(search(data), splits)
    with atomic_directory(out, "audit") as folder:
        result.save(folder)
        write_atomically(folder / PAGE, render_audit(result))
    result.log()
    log.info("page: %s", out / PAGE)
