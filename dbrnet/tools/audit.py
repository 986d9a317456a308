"""`dbrnet audit`: what a dataset, or a division of it, gives away."""

from pathlib import Path

from dbrnet.audit.findings import judge, search
from dbrnet.audit.hygiene import inspect
from dbrnet.audit.record import log_findings, save_findings
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import Split
from dbrnet.files import atomic_directory


def audit(dataset: Path, *, out: Path, split: Path | None = None) -> None:
    """Find the pictures that show the same thing, and say what that means for the parts.

    The parts are --split's; without it those in which the dataset was published, where it was. Writes
    audit.json, links.csv (the evidence for each pair) and audit.html, which opens offline, under --out.
    """
    data = Dataset.load(dataset)
    parts = Split.load(split).parts if split else data.published_parts
    fingerprints, groups = search(data)
    findings = judge(data, fingerprints, groups, parts)
    hygiene = inspect(data, groups.of, fingerprints.brightness, parts or {"all": list(data.by_id)})
    with atomic_directory(out) as folder:
        save_findings(folder, data, findings, groups, hygiene)
    log_findings(findings, out)
