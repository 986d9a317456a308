"""The nearest-neighbour baseline, and how far the masks of near-duplicates agree.

The baseline learns nothing. For each test image it takes the training image with the nearest coarse vector, in
whichever of the eight symmetries, and answers with that image's mask. Where a split leaks, it scores as well
as any network can, and a network's score there proves no skill.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from dbrnet.audit.fingerprint import Fingerprints
from dbrnet.audit.grouping import Groups, Link
from dbrnet.audit.matching import Candidate, align, nearest
from dbrnet.data.dataset import Dataset
from dbrnet.data.loading import resize_mask
from dbrnet.evaluation.metrics import IGNORE_INDEX, Scores, confusion_matrix
from dbrnet.progress import progress


def nn_baseline(
    dataset: Dataset, fingerprints: Fingerprints, groups: Groups, train: Sequence[str], test: Sequence[str]
) -> Scores:
    """Score the masks copied from `train` on `test`, both lists of ids, as a model's masks are scored."""
    names = [info.name for info in dataset.card.classes]
    samples = fingerprints.samples
    index_of = {sample.id: index for index, sample in enumerate(samples)}
    queries, among = (np.array([index_of[id_] for id_ in ids], np.intp) for ids in (test, train))
    confusion = np.zeros((len(names), len(names)), np.int64)
    neighbours = nearest(fingerprints, queries, among, count=1, least=-1.0)
    for query, neighbour, symmetry, score in progress(neighbours, len(queries), "nearest neighbours"):
        target, mask = dataset.mask(samples[query]), dataset.mask(samples[neighbour])
        shape = target.shape[0], target.shape[1]
        if groups.of[samples[query].id] == groups.of[samples[neighbour].id]:
            alignment = align(fingerprints, Candidate(query, neighbour, symmetry, score))
            copied = alignment.lay(mask, shape)
            copied[copied == IGNORE_INDEX] = 0  # where the neighbour does not reach
        else:
            copied = resize_mask(np.ascontiguousarray(symmetry.apply(mask)), shape)
        confusion += confusion_matrix(copied, target, len(names))
    return Scores.from_confusion(confusion, names)


@dataclass(frozen=True)
class Repeatability:
    """How far the masks of near-duplicates agree, where both reach: a bound for any model's score."""

    scores: Scores | None  # one mask as the prediction, the other as the truth; None: no link has an alignment
    agreement: dict[Link, float]  # share of the pixels that either mask marks to which both give one class


def repeatability(dataset: Dataset, links: Iterable[Link]) -> Repeatability:
    """Compare the masks of each link that has an alignment."""
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
    return Repeatability(Scores.from_confusion(confusion, names) if confusion.any() else None, agreement)
