"""What a split gives away: the score of copying masks, and how far the masks of copies agree.

The nearest-neighbour baseline learns nothing. For each image it takes the training image that is nearest by the coarse
vectors, in whichever of eight ways it is laid down, and hands in that one's mask. Where a split leaks, this
scores as well as any network can, and a network's score there is no proof of skill.
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
    """Score the masks copied from `train` on `test`, both lists of ids, as a model's answers are scored."""
    names = [info.name for info in dataset.card.classes]
    samples = fingerprints.samples
    place = {sample.id: index for index, sample in enumerate(samples)}
    queries = np.array([place[id_] for id_ in test], np.intp)
    among = np.array([place[id_] for id_ in train], np.intp)
    confusion = np.zeros((len(names), len(names)), np.int64)
    found = nearest(fingerprints, queries, among, count=1, least=-1.0)
    for query, other, symmetry, score in progress(found, len(queries), "looking up"):
        target, mask = dataset.mask(samples[query]), dataset.mask(samples[other])
        shape = target.shape[0], target.shape[1]
        if groups.of[samples[query].id] == groups.of[samples[other].id]:
            alignment = align(fingerprints, Candidate(query, other, symmetry, score))
            copied = alignment.lay(mask, shape)
            copied[copied == IGNORE_INDEX] = 0  # where the found image does not reach
        else:
            copied = resize_mask(np.ascontiguousarray(symmetry.apply(mask)), shape)
        confusion += confusion_matrix(copied, target, len(names))
    return Scores.from_confusion(confusion, names)


@dataclass(frozen=True)
class Repeatability:
    """How far the masks of linked images agree, where both reach.

    Labels that disagree with themselves bound what any model can score on them.
    """

    scores: Scores | None  # one mask as the answer, the other as the truth; None: no link has an alignment
    agreement: dict[Link, float]  # of the pixels that either mask marks, the share that both give one class


def repeatability(dataset: Dataset, links: Iterable[Link]) -> Repeatability:
    """Compare the masks of each link that says how its images lie on each other."""
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
