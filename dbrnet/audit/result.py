"""The audit of a dataset and of its splits: `search` finds the near-duplicates, `audit_splits` draws the conclusions.

audit.json   groups, leaks, the nearest-neighbour baseline's score, how far labels repeat
links.csv    first,second,evidence,symmetry,rows,columns,correlation,agreement: the evidence for each link
"""

import csv
import io
import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbrnet.audit.fingerprint import Fingerprints, take_fingerprints
from dbrnet.audit.grouping import WHOLE, Groups, Link, find_groups
from dbrnet.audit.matching import align, nearest
from dbrnet.data.dataset import Dataset
from dbrnet.data.loading import resize_mask
from dbrnet.evaluation.metrics import IGNORE_INDEX, Scores, confusion_matrix
from dbrnet.files import write_atomically
from dbrnet.progress import progress
from dbrnet.records import AuditRecord, format_value

LINKS_FILE = "links.csv"
DISPUTING = 0.3  # share of the marked pixels below which one of two near-duplicates must be labelled wrongly
VOTERS = 10  # near-duplicates that an image's mask is compared with where its group is in dispute
AGREEING = 0.5  # share of the marked pixels below which the masks of near-duplicates are listed as differing
FEW_PIXELS = 10  # a smaller defect is more likely a slip of the brush
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
class Balance:
    """One split's share of the data; lists by class id, the background (defect-free images) first."""

    split: str
    images: int
    groups: int
    images_by_class: list[int]
    pixel_shares: list[float]
    brightness: tuple[float, float, float]  # grey values: darkest, median and brightest image


@dataclass(frozen=True)
class LabelChecks:
    """What the masks and sizes of the whole dataset are like."""

    balance: list[Balance]
    sizes: dict[str, int]  # "height x width" -> images, the most common first
    few_pixels: dict[str, int]  # id -> defect pixels, from 1 to FEW_PIXELS - 1
    out_of_range: dict[str, int]  # id -> the highest class id, where the card has no such class


@dataclass(frozen=True)
class Audit:
    """Everything that an audit writes and shows."""

    dataset: Dataset
    groups: Groups
    agreement: dict[Link, float]  # share of the pixels that either mask marks to which both give one class
    labelled_differently: list[Link]  # whole images that agree on less than `AGREEING` of what they mark, worst first
    disputed: tuple[str, ...]  # see `find_disputed`
    label_checks: LabelChecks
    result: AuditRecord

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
    repeated, agreement = repeatability(dataset, groups.links)
    differing = [link for link, share in agreement.items() if share < AGREEING and link.evidence == WHOLE]
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
        repeatability=repeated,
        leaking={
            name: sum(groups.of[id_] in trained for id_ in ids) for name, ids in splits.items() if name != "train"
        },
        splits={name: len(ids) for name, ids in splits.items()},
        nn_baseline=baseline,
        method=METHOD,
        labelled_differently=len(differing),
    )
    checked = splits or {"all": list(dataset.by_id)}
    label_checks = check_labels(dataset, groups.of, found.fingerprints.brightness, checked)
    worst_first = sorted(differing, key=lambda link: agreement[link])
    disputed = find_disputed(found, agreement)
    return Audit(dataset, groups, agreement, worst_first, disputed, label_checks, result)


def nn_baseline(
    dataset: Dataset, fingerprints: Fingerprints, groups: Groups, train: Sequence[str], test: Sequence[str]
) -> Scores:
    """The nearest-neighbour baseline: masks copied from `train` (ids), scored on `test` as a model's are.

    It learns nothing. Each test image gets the mask of the training image with the nearest coarse vector, in
    whichever of the eight symmetries. Where a split leaks, it scores as well as any network can, and a network's
    score there proves no skill.
    """
    names = [info.name for info in dataset.card.classes]
    samples = fingerprints.samples
    index_of = {sample.id: index for index, sample in enumerate(samples)}
    queries, among = (np.array([index_of[id_] for id_ in ids], np.intp) for ids in (test, train))
    confusion = np.zeros((len(names), len(names)), np.int64)
    neighbours = nearest(fingerprints, queries, among, count=1, least=-1.0)
    for pair in progress(neighbours, len(queries), "nearest neighbours"):
        query, neighbour = samples[pair.first], samples[pair.second]
        target, mask = dataset.mask(query), dataset.mask(neighbour)
        shape = target.shape[0], target.shape[1]
        if groups.of[query.id] == groups.of[neighbour.id]:
            copied = align(fingerprints, pair).lay(mask, shape)
            copied[copied == IGNORE_INDEX] = 0  # where the neighbour does not reach
        else:
            copied = resize_mask(np.ascontiguousarray(pair.symmetry.apply(mask)), shape)
        confusion += confusion_matrix(copied, target, len(names))
    return Scores.from_confusion(confusion, names)


def repeatability(dataset: Dataset, links: Iterable[Link]) -> tuple[Scores | None, dict[Link, float]]:
    """How far the masks of near-duplicates agree where both reach, over the links that have an alignment.

    The scores take one mask as the prediction and the other as the truth, which bounds any model's score; None
    where no link has an alignment. By link: the share of the pixels that either marks to which both give one class.
    """
    names = [info.name for info in dataset.card.classes]
    confusion = np.zeros((len(names), len(names)), np.int64)
    agreement: dict[Link, float] = {}
    for link in links:
        if link.alignment is not None:
            first, second = (dataset.mask(dataset.by_id[id_]) for id_ in (link.first, link.second))
            laid = link.alignment.lay(second, (first.shape[0], first.shape[1]))
            pair = confusion_matrix(np.where(laid == IGNORE_INDEX, 0, first), laid, len(names))
            confusion += pair
            marked = pair.sum() - pair[0, 0]
            agreement[link] = float(pair.trace() - pair[0, 0]) / float(marked) if marked else 1.0
    return Scores.from_confusion(confusion, names) if confusion.any() else None, agreement


def find_disputed(found: Search, agreement: Mapping[Link, float]) -> tuple[str, ...]:
    """Ids, ascending, of the images whose mask more near-duplicates contradict than bear out.

    In each group of which `agreement` has a contradiction, images are compared with their `VOTERS` nearest that are
    near-duplicates as a whole. Where there are but two, nobody knows which is right: both are among them. A mask
    without a defect contradicts none that has some: a label is forgotten more often than invented, and good parts in
    one fixture may pass for near-duplicates of the one that is scratched.
    """
    samples, of = found.fingerprints.samples, found.groups.of
    doubtful = {of[link.first] for link, share in agreement.items() if _contradicts(link, share)}
    members = defaultdict[str, list[int]](list)
    for index, sample in enumerate(samples):
        if of[sample.id] in doubtful:
            members[of[sample.id]].append(index)
    links: dict[frozenset[int], Link] = {}
    for indices in map(np.array, members.values()):
        for pair in nearest(found.fingerprints, indices, indices, VOTERS, least=-1.0):
            key = frozenset((pair.first, pair.second))
            if key not in links:
                ids = samples[pair.first].id, samples[pair.second].id
                links[key] = Link(*ids, align(found.fingerprints, pair))
    whole = [link for link in links.values() if link.evidence == WHOLE]
    votes: Counter[str] = Counter()
    for link, share in repeatability(found.dataset, whole)[1].items():
        for id_, other in ((link.first, link.second), (link.second, link.first)):
            if not _contradicts(link, share):
                votes[id_] -= 1
            elif found.dataset.by_id[other].classes:
                votes[id_] += 1
    return tuple(sorted(id_ for id_, excess in votes.items() if excess > 0))


def _contradicts(link: Link, share: float) -> bool:
    return link.evidence == WHOLE and share < DISPUTING


def check_labels(
    dataset: Dataset, groups: Mapping[str, str], brightness: NDArray[np.float32], splits: Mapping[str, Sequence[str]]
) -> LabelChecks:
    """Count every mask's pixels.

    `groups` maps ids to groups, `splits` names to ids; `brightness` [N] is the images', in the samples' order.
    """
    classes = len(dataset.card.classes)
    pixels: dict[str, NDArray[np.int64]] = {}
    out_of_range: dict[str, int] = {}
    for sample in progress(dataset.samples, len(dataset.samples), "masks"):
        counts = np.bincount(dataset.mask(sample).ravel(), minlength=classes)
        if len(counts) > classes:
            out_of_range[sample.id] = len(counts) - 1
        pixels[sample.id] = counts[:classes]
    light = dict(zip(dataset.by_id, brightness.tolist(), strict=True))

    def balance(name: str, ids: Sequence[str]) -> Balance:
        total = np.sum([pixels[id_] for id_ in ids], axis=0)
        values = np.array([light[id_] for id_ in ids])
        present = Counter(label for id_ in ids for label in dataset.by_id[id_].classes or (0,))
        return Balance(
            split=name,
            images=len(ids),
            groups=len({groups[id_] for id_ in ids}),
            images_by_class=[present[label] for label in range(classes)],
            pixel_shares=(total / total.sum()).tolist(),
            brightness=(float(values.min()), float(np.median(values)), float(values.max())),
        )

    sizes = Counter(f"{sample.height} x {sample.width}" for sample in dataset.samples)
    defects = {id_: int(counts[1:].sum()) for id_, counts in pixels.items()}
    return LabelChecks(
        balance=[balance(name, ids) for name, ids in splits.items() if ids],
        sizes=dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))),
        few_pixels={id_: count for id_, count in defects.items() if 0 < count < FEW_PIXELS},
        out_of_range=out_of_range,
    )
