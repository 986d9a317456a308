"""Step 2: find what shows the same thing, and divide the samples."""

import csv
import io
import logging
from pathlib import Path

from dbrnet.audit.findings import AUDIT_FILE, LINKS_FILE, Findings, judge, search
from dbrnet.audit.grouping import Groups
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import split_samples
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, write_atomically, write_json
from dbrnet.params import SplitParams

log = logging.getLogger(__name__)


def split(params: SplitParams, dataset: Path, *, out: Path) -> None:
    """Audit the pictures for copies, then divide them so that every class reaches every part.

    kind `groups` keeps pictures of the same thing in one part; kind `paper` is the paper's random split, for
    comparison, and says what share of it leaks. Writes split.csv (id, part, group), split.json, audit.json
    (groups, leaks, the look-up's score, how far labels repeat) and links.csv (the evidence) under --out.
    """
    data = Dataset.load(dataset)
    fingerprints, groups = search(data)
    made = split_samples(data, groups.of, kind=params.kind, fractions=params.fractions, seed=params.seed)
    if made.leaks == "yes" and params.kind != "paper":
        raise UserError(f"{dataset}: the split leaks; ask for split.kind: paper where that is meant")
    findings = judge(data, fingerprints, groups, made.parts)
    with atomic_directory(out) as folder:
        made.save(folder)
        save_findings(folder, findings, groups)
    log.info("%s", ", ".join(f"{part} {len(ids)}" for part, ids in made.parts.items()))
    report_findings(findings)


def save_findings(folder: Path, findings: Findings, groups: Groups) -> None:
    """Write audit.json and links.csv into `folder`."""
    write_json(folder / AUDIT_FILE, findings.to_dict())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("first", "second", "evidence", "symmetry", "rows", "columns", "correlation"))
    for link in groups.links:
        found = link.alignment
        how = (found.symmetry, *found.shift, round(found.score, 4)) if found else ("", "", "", "")
        writer.writerow((link.first, link.second, link.evidence, *how))
    write_atomically(folder / LINKS_FILE, text.getvalue())


def report_findings(findings: Findings) -> None:
    """Tell on the log what was found."""
    log.info(
        "%d pictures of %d things (%d by their names)",
        *(findings.pictures, findings.groups, findings.groups_by_name),
    )
    if findings.repeatability is not None:
        log.info("masks of one thing agree by %.4f mIoU", findings.repeatability.miou)
    for part, leaking in findings.leaking.items():
        verdict = f"LEAKS: {leaking} of {findings.parts[part]} pictures are" if leaking else "no picture is"
        log.info("%s: %s of a thing that train shows too", part, verdict)
    if findings.look_up is not None:
        log.info("copying masks from train, no learning at all, scores %.4f mIoU", findings.look_up.miou)
