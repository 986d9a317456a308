"""Step 2: find near-duplicates, and divide the samples."""

import logging
from dataclasses import replace
from pathlib import Path

from dbrnet.audit.result import audit_splits, search
from dbrnet.config import SplitParams
from dbrnet.data import open_dataset
from dbrnet.data.split import SPLIT_FILE, Split, split_samples
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, require_apart
from dbrnet.reports.audit_page import PAGE, write_audit

log = logging.getLogger(__name__)


def split(params: SplitParams, dataset: Path, champion: Path | None = None, *, out: Path) -> None:
    """Audit the images for near-duplicates, then divide them so that every class reaches every split.

    kind `groups` keeps near-duplicates in one split, and in the split where `previous` (or --champion, the folder that
    `dbrnet fetch-champion` wrote) had them, so that no image which the champion was trained on is tested on. kind
    `random` is the papers' random split, for comparison, and records its leak rate. Writes split.csv, split.json,
    audit.json (groups, leaks, the nearest-neighbour baseline's score, how far labels repeat), links.csv
    (the evidence for each pair) and audit.html under --out.
    """
    previous = Path(params.previous) if params.previous else None
    if previous:
        require_apart(out, previous, "split.previous")
    if champion and (champion / SPLIT_FILE).exists():
        previous = champion
    data = open_dataset(dataset)
    duplicates = search(data)
    made = split_samples(
        data,
        duplicates.groups.of,
        kind=params.kind,
        fractions=params.fractions,
        seed=params.seed,
        previous=Split.load(previous) if previous else None,
    )
    if made.leaks == "yes" and params.kind != "random":
        raise UserError(f"{dataset}: the split leaks; ask for split.kind: random where that is meant")
    audit = audit_splits(duplicates, made.ids)
    with atomic_directory(out, "split") as folder:
        replace(made, disputed=audit.disputed).save(folder)
        write_audit(audit, folder)
    log.info("%s", ", ".join(f"{name} {len(ids)}" for name, ids in made.ids.items()))
    audit.log()
    log.info("page: %s", out / PAGE)
