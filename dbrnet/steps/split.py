"""Step 2: find what shows the same thing, and divide the samples."""

import logging
from pathlib import Path

from dbrnet.audit.findings import judge, search
from dbrnet.audit.hygiene import inspect
from dbrnet.audit.record import log_findings, save_findings
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import Split, split_samples
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory
from dbrnet.params import SplitParams

log = logging.getLogger(__name__)


def split(params: SplitParams, dataset: Path, *, out: Path) -> None:
    """Audit the pictures for copies, then divide them so that every class reaches every part.

    kind `groups` keeps pictures of the same thing in one part, and in the part where `former` had them; kind
    `paper` is the paper's random split, for comparison, and says what share leaks. Writes split.csv (id,
    part, group), split.json, audit.json (groups, leaks, the look-up's score, how far labels repeat),
    links.csv (the evidence for each pair) and audit.html under --out.
    """
    data = Dataset.load(dataset)
    fingerprints, groups = search(data)
    former = Split.load(Path(params.former)) if params.former else None
    made = split_samples(
        data, groups.of, kind=params.kind, fractions=params.fractions, seed=params.seed, former=former
    )
    if made.leaks == "yes" and params.kind != "paper":
        raise UserError(f"{dataset}: the split leaks; ask for split.kind: paper where that is meant")
    findings = judge(data, fingerprints, groups, made.parts)
    hygiene = inspect(data, groups.of, fingerprints.brightness, made.parts)
    with atomic_directory(out) as folder:
        made.save(folder)
        save_findings(folder, data, findings, groups, hygiene)
    log.info("%s", ", ".join(f"{part} {len(ids)}" for part, ids in made.parts.items()))
    log_findings(findings, out)
