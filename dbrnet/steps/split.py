"""Step 2: find what shows the same thing, and divide the samples."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from dbrnet.audit.fingerprint import Fingerprints
from dbrnet.audit.grouping import Groups
from dbrnet.audit.io import log_audit, save_audit
from dbrnet.audit.label_checks import check_labels
from dbrnet.audit.result import AuditResult, audit_splits, search
from dbrnet.config import SplitParams
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import SPLIT_FILE, Split, split_samples
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, require_apart, write_atomically
from dbrnet.reports.audit_page import PAGE, render_audit

log = logging.getLogger(__name__)


def split(params: SplitParams, dataset: Path, champion: Path | None = None, *, out: Path) -> None:
    """Audit the images for copies, then divide them so that every class reaches every split.

    kind `groups` keeps near-duplicates in one split, and in the split where `previous` (or --champion, the folder that
    `dbrnet fetch-champion` wrote) had them, so that nothing the champion learned is tested on. kind `random` is
    the papers' random split, for comparison, and says what share leaks. Writes split.csv (id, split, group),
    split.json, audit.json (groups, leaks, the nearest-neighbour baseline's score, how far labels repeat), links.csv
    (the evidence for each pair) and audit.html under --out.
    """
    previous = Path(params.previous) if params.previous else None
    if previous:
        require_apart(out, previous, "split.previous")
    if champion and (champion / SPLIT_FILE).exists():
        previous = champion
    data = Dataset.load(dataset)
    fingerprints, groups = search(data)
    made = split_samples(
        data,
        groups.of,
        kind=params.kind,
        fractions=params.fractions,
        seed=params.seed,
        previous=Split.load(previous) if previous else None,
    )
    if made.leaks == "yes" and params.kind != "random":
        raise UserError(f"{dataset}: the split leaks; ask for split.kind: random where that is meant")
    with atomic_directory(out, "split") as folder:
        made.save(folder)
        result = write_audit(folder, data, fingerprints, groups, made.ids)
    log.info("%s", ", ".join(f"{split_name} {len(ids)}" for split_name, ids in made.ids.items()))
    log_audit(result)
    log.info("page: %s", out / PAGE)


def write_audit(
    folder: Path, data: Dataset, fingerprints: Fingerprints, groups: Groups, splits: Mapping[str, Sequence[str]]
) -> AuditResult:
    """Write into `folder` what near-duplicates mean for `splits` (none: only what they are), and its page."""
    result = audit_splits(data, fingerprints, groups, splits)
    label_checks = check_labels(data, groups.of, fingerprints.brightness, splits or {"all": list(data.by_id)})
    save_audit(folder, result, groups)
    write_atomically(folder / PAGE, render_audit(data, result, groups, label_checks))
    return result
