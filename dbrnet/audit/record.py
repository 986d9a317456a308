"""Keeping and telling what the audit found."""

import csv
import io
import logging
from pathlib import Path

from dbrnet.audit.findings import AUDIT_FILE, Findings
from dbrnet.audit.grouping import Groups
from dbrnet.audit.hygiene import Hygiene
from dbrnet.audit.report import render_audit
from dbrnet.data.dataset import Dataset
from dbrnet.files import write_atomically, write_json

LINKS_FILE = "links.csv"
PAGE = "audit.html"

log = logging.getLogger(__name__)


def save_findings(
    folder: Path, dataset: Dataset, findings: Findings, groups: Groups, hygiene: Hygiene
) -> None:
    """Write audit.json, links.csv and audit.html into `folder`."""
    write_json(folder / AUDIT_FILE, findings.to_dict())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ("first", "second", "evidence", "symmetry", "rows", "columns", "correlation", "agreement")
    )
    for link in groups.links:
        found = link.alignment
        how: tuple[object, ...] = ("",) * 5
        if found:
            how = found.symmetry, *found.shift, round(found.score, 4), round(findings.agreement[link], 4)
        writer.writerow((link.first, link.second, link.evidence, *how))
    write_atomically(folder / LINKS_FILE, text.getvalue())
    page = render_audit(dataset, findings, groups, hygiene, f"Audit of {dataset.card.title}")
    write_atomically(folder / PAGE, page)


def log_findings(findings: Findings, out: Path) -> None:
    """Tell on the log what was found."""
    log.info(
        "%d pictures of %d things (%d by their names)",
        *(findings.pictures, findings.groups, findings.groups_by_name),
    )
    if findings.repeatability is not None:
        log.info(
            "masks of one thing agree by %.4f mIoU; %d pairs agree on less than half of what they mark",
            *(findings.repeatability.miou, len(findings.labelled_differently)),
        )
    for part, leaking in findings.leaking.items():
        verdict = f"LEAKS: {leaking} of {findings.parts[part]} pictures are" if leaking else "no picture is"
        log.info("%s: %s of a thing that train shows too", part, verdict)
    if findings.look_up is not None:
        log.info("copying masks from train, no learning at all, scores %.4f mIoU", findings.look_up.miou)
    log.info("page: %s", out / PAGE)
