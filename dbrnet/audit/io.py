"""Keeping and telling what the audit found."""

import csv
import io
import logging
from pathlib import Path

from dbrnet.audit.grouping import Groups
from dbrnet.audit.result import AuditResult
from dbrnet.files import write_atomically

LINKS_FILE = "links.csv"

log = logging.getLogger(__name__)


def save_audit(folder: Path, result: AuditResult, groups: Groups) -> None:
    """Write audit.json and links.csv into `folder`."""
    result.to_record().save(folder)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("first", "second", "evidence", "symmetry", "rows", "columns", "correlation", "agreement"))
    for link in groups.links:
        found = link.alignment
        how: tuple[object, ...] = ("",) * 5
        if found:
            how = found.symmetry, *found.shift, round(found.score, 4), round(result.agreement[link], 4)
        writer.writerow((link.first, link.second, link.evidence, *how))
    write_atomically(folder / LINKS_FILE, text.getvalue())


def log_audit(result: AuditResult) -> None:
    """Tell on the log what was found."""
    log.info("%d images of %d things (%d by their names)", *(result.images, result.groups, result.groups_by_name))
    if result.repeatability is not None:
        log.info(
            "masks of one thing agree by %.4f mIoU; %d pairs agree on less than half of what they mark",
            *(result.repeatability.miou, len(result.labelled_differently)),
        )
    for split_name, leaking in result.leaking.items():
        verdict = f"LEAKS: {leaking} of {result.splits[split_name]} images are" if leaking else "no image is"
        log.info("%s: %s of a thing that train shows too", split_name, verdict)
    if result.nn_baseline is not None:
        log.info("copying masks from train, no learning at all, scores %.4f mIoU", result.nn_baseline.miou)
