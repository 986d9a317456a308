"""`dbrnet audit`: what a dataset, or a division of it, gives away."""

import logging
from pathlib import Path

from dbrnet.audit.io import log_audit, save_audit
from dbrnet.audit.label_checks import check_labels
from dbrnet.audit.result import audit_splits, search
from dbrnet.data import open_dataset
from dbrnet.data.split import Split
from dbrnet.files import atomic_directory, write_atomically
from dbrnet.reports.audit_page import PAGE, render_audit

log = logging.getLogger(__name__)


def audit(dataset: Path, *, out: Path, split: Path | None = None) -> None:
    """Find the images that show the same thing, and say what that means for the splits.

    The splits are --split's; without it those in which the dataset was published, where it was. Writes
    audit.json, links.csv (the evidence for each pair) and audit.html, which opens offline, under --out.
    """
    data = open_dataset(dataset)
    splits = Split.load(split).ids if split else data.published_splits
    fingerprints, groups = search(data)
    result = audit_splits(data, fingerprints, groups, splits)
    label_checks = check_labels(data, groups.of, fingerprints.brightness, splits or {"all": list(data.by_id)})
    with atomic_directory(out, "audit") as folder:
        save_audit(folder, result, groups)
        write_atomically(folder / PAGE, render_audit(data, result, groups, label_checks))
    log_audit(result)
    log.info("page: %s", out / PAGE)
