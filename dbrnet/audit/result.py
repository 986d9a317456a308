"""What the audit of a dataset, and of its division into splits, found."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dbrnet.audit.fingerprint import Fingerprints, take_fingerprints
from dbrnet.audit.grouping import Groups, Link, find_groups
from dbrnet.audit.nn_baseline import nn_baseline, repeatability
from dbrnet.data.dataset import Dataset
from dbrnet.evaluation.metrics import Scores
from dbrnet.records import AuditRecord

AGREEING = 0.5  # share of the marked pixels below which two masks of one thing are worth a look
METHOD = (
    "images share a group where their names say so, or where their band-passed textures coincide, wholly "
    "or in a good part, as they are or turned or mirrored, under any exposure, moved by up to an eighth"
)


@dataclass(frozen=True)
class AuditResult:
    """The groups of a dataset and what they mean for its splits."""

    content_hash: str  # of the dataset
    images: int
    groups: int
    groups_by_name: int  # before the content was looked at
    group_sizes: dict[int, int]  # members -> how many groups
    links: dict[str, int]  # kind of evidence -> how many
    repeatability: Scores | None  # of the masks of one group's images
    agreement: dict[Link, float]  # by link, see `Repeatability`
    leaking: dict[str, int]  # split -> its images whose group is in train too
    splits: dict[str, int]  # split -> its images
    nn_baseline: Scores | None  # of masks copied from train to test; None where no splits were given
    method: str = METHOD

    @property
    def labelled_differently(self) -> list[Link]:
        """The whole images whose masks agree on less than half of what they mark, the worst first."""
        differing = [
            link for link, share in self.agreement.items() if share < AGREEING and link.evidence == "whole image"
        ]
        return sorted(differing, key=lambda link: self.agreement[link])

    def to_record(self) -> AuditRecord:
        """What audit.json holds; the links' agreement is in links.csv."""
        fields = {name: value for name, value in vars(self).items() if name != "agreement"}
        return AuditRecord(**fields | {"labelled_differently": len(self.labelled_differently)})


def search(dataset: Dataset) -> tuple[Fingerprints, Groups]:
    """Look for images that show the same thing."""
    fingerprints = take_fingerprints(dataset)
    return fingerprints, find_groups(fingerprints)


def audit_splits(
    dataset: Dataset, fingerprints: Fingerprints, groups: Groups, splits: Mapping[str, Sequence[str]]
) -> AuditResult:
    """Say what the groups mean for `splits` (split -> ids; "train" and "test" among them, or none at all)."""
    labels = repeatability(dataset, groups.links)
    trained = {groups.of[id_] for id_ in splits.get("train", ())}
    return AuditResult(
        content_hash=dataset.card.content_hash,
        images=len(dataset.samples),
        groups=groups.count,
        groups_by_name=len({sample.group for sample in dataset.samples}),
        group_sizes=dict(sorted(Counter(Counter(groups.of.values()).values()).items())),
        links=dict(Counter(link.evidence for link in groups.links)),
        repeatability=labels.scores,
        agreement=labels.agreement,
        leaking={
            split_name: sum(groups.of[id_] in trained for id_ in ids)
            for split_name, ids in splits.items()
            if split_name != "train"
        },
        splits={split_name: len(ids) for split_name, ids in splits.items()},
        nn_baseline=nn_baseline(dataset, fingerprints, groups, splits["train"], splits["test"]) if splits else None,
    )
