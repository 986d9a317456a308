"""Step 2: find near-duplicates, and divide the samples."""

import logging
from pathlib import Path

from dbrnet.audit.io import log_audit, save_audit
from dbrnet.audit.label_checks import check_labels
from dbrnet.audit.result import audit_splits, search
from dbrnet.config import SplitParams
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import Split, split_samples
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, require_apart, write_atomically
from dbrnet.reports.audit_page import PAGE, render_audit

log = logging.getLogger(__name__)


def split(params: SplitParams, dataset: Path, *, out: Path) -> None:
    """Audit the images for near-duplicates, then divide them so that every class reaches every split.

    kind `groups` keeps near-duplicates in one split, and in the split where `previous` had them; kind `random`
    is the papers' random split, for comparison, and records its leak rate. Writes split.csv (id, split, group),
    split.json, audit.json (groups, leaks, the nearest-neighbour baseline's score, how far labels repeat), links.csv
    (the evidence for each pair) and audit.html under --out.
    """
    if params.previous:
        require_apart(out, Path(params.previous), "split.previous")
    data = Dataset.load(dataset)
    fingerprints, groups = search(data)
    previous = Split.load(Path(params.previous)) if params.previous else None
    made = split_samples(
        data, groups.of, kind=params.kind, fractions=params.fractions, seed=params.seed, previous=previous
    )
    if made.leaks == "yes" and params.kind != "random":
        raise UserError(f"{dataset}: the split leaks; ask for split.kind: random where that is meant")
    result = audit_splits(data, fingerprints, groups, made.ids)
    label_checks = check_labels(data, groups.of, fingerprints.brightness, made.ids)
    with atomic_directory(out, "split") as folder:
        made.save(folder)
        save_audit(folder, result, groups)
        write_atomically(folder / PAGE, render_audit(data, result, groups, label_checks))
    log.info("%s", ", ".join(f"{name} {len(ids)}" for name, ids in made.ids.items()))
    log_audit(result)
    log.info("page: %s", out / PAGE)
