"""The audit of a dataset and of its splits: `search` finds the near-duplicates, `audit_splits` draws the conclusions.

audit.json   groups, leaks, the nearest-neighbour baseline's score, how far labels repeat
links.csv    first,second,evidence,symmetry,rows,columns,correlation,agreement: the evidence for each link
"""

import csv
import io
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrnet.audit.fingerprint import Fingerprints, take_fingerprints
from dbrnet.audit.grouping import Groups, Link, find_groups
from dbrnet.audit.label_checks import LabelChecks, check_labels
from dbrnet.audit.nn_baseline import nn_baseline, repeatability
from dbrnet.data.dataset import Dataset
from dbrnet.files import write_atomically
from dbrnet.records import AuditRecord, format_value

LINKS_FILE = "links.csv"
AGREEING = 0.5  # share of the marked pixels below which the masks of near-duplicates are listed as differing
METHOD = (
    "images share a group where their names say so, or where their band-passed textures coincide, wholly "
    "or in a good part, as they are or turned or mirrored, under any exposure, moved by up to an eighth"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Search:
    """The near-duplicates of a dataset, before it is split."""

    dataset: Dataset
    fingerprints: Fingerprints
    groups: Groups


@dataclass(frozen=True)
class Audit:
    """Everything that an audit writes and shows."""

    dataset: Dataset
    groups: Groups
    agreement: dict[Link, float]  # share of the pixels that either mask marks to which both give one class
    label_checks: LabelChecks
    result: AuditRecord

    @property
    def labelled_differently(self) -> list[Link]:
        """The pairs of whole images whose masks agree on less than `AGREEING` of what they mark, worst first."""
        return _labelled_differently(self.agreement)

    def save(self, folder: Path) -> None:
        """Write audit.json and links.csv into `folder`."""
        self.result.save(folder)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("first", "second", "evidence", "symmetry", "rows", "columns", "correlation", "agreement"))
        for link in self.groups.links:
            match: tuple[object, ...] = ("",) * 5
            if alignment := link.alignment:
                agreement = round(self.agreement[link], 4)
                match = alignment.symmetry, *alignment.shift, round(alignment.score, 4), agreement
            writer.writerow((link.first, link.second, link.evidence, *match))
        write_atomically(folder / LINKS_FILE, text.getvalue())

    def log(self) -> None:
        """Log the result in a few lines."""
        result = self.result
        log.info("%d images in %d groups (%d by their names)", result.images, result.groups, result.groups_by_name)
        if result.repeatability is not None:
            log.info(
                "masks within a group agree by %s mIoU; %d pairs agree on less than half of what they mark",
                *(format_value(result.repeatability.miou, "share"), result.labelled_differently),
            )
        for name, leaking in result.leaking.items():
            verdict = f"LEAKS: {leaking} of {result.splits[name]} images have" if leaking else "no image has"
            log.info("%s: %s a near-duplicate in train", name, verdict)
        if result.nn_baseline is not None:
            miou = format_value(result.nn_baseline.miou, "share")
            log.info("copying masks from train, no learning at all, scores %s mIoU", miou)


def search(dataset: Dataset) -> Search:
    """Find the near-duplicates among the images; raises `UserError` that names an unreadable one."""
    fingerprints = take_fingerprints(dataset)
    return Search(dataset, fingerprints, find_groups(fingerprints))


def audit_splits(found: Search, splits: Mapping[str, Sequence[str]]) -> Audit:
    """Audit `splits` (name -> ids; "train" and "test" among them, or no split at all) and every mask.

    Without splits the labels are checked over the whole dataset, as one split "all".
    """
    dataset, groups = found.dataset, found.groups
    labels = repeatability(dataset, groups.links)
    trained = {groups.of[id_] for id_ in splits.get("train", ())}
    baseline = None
    if splits:
        baseline = nn_baseline(dataset, found.fingerprints, groups, splits["train"], splits["test"])
    result = AuditRecord(
        content_hash=dataset.card.content_hash,
        images=len(dataset.samples),
        groups=groups.count,
        groups_by_name=len({sample.group for sample in dataset.samples}),
        group_sizes=dict(sorted(Counter(Counter(groups.of.values()).values()).items())),
        links=dict(Counter(link.evidence for link in groups.links)),
        repeatability=labels.scores,
        leaking={
            name: sum(groups.of[id_] in trained for id_ in ids) for name, ids in splits.items() if name != "train"
        },
        splits={name: len(ids) for name, ids in splits.items()},
        nn_baseline=baseline,
        method=METHOD,
        labelled_differently=len(_labelled_differently(labels.agreement)),
    )
    checked = splits or {"all": list(dataset.by_id)}
    label_checks = check_labels(dataset, groups.of, found.fingerprints.brightness, checked)
    return Audit(dataset, groups, labels.agreement, label_checks, result)


def _labelled_differently(agreement: Mapping[Link, float]) -> list[Link]:
    links = [link for link, share in agreement.items() if share < AGREEING and link.evidence == "whole image"]
    return sorted(links, key=lambda link: agreement[link])
