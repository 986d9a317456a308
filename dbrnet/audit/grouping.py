"""Groups of images that show the same thing, with the evidence for each link."""

from collections import defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from dbrnet.audit.fingerprint import Fingerprints
from dbrnet.audit.matching import SAME, Alignment, Candidate, align, find_candidates
from dbrnet.data.dataset import Sample
from dbrnet.progress import progress
from dbrnet.provenance import available_cores

CHUNK = 256  # candidates compared at a time; part of the result, so not the number of cores
FAILURES = 3  # candidates between two groups that may fail before the two are left apart


@dataclass(frozen=True)
class Link:
    """Why two images are in one group: their names say so, or their textures coincide."""

    first: str
    second: str
    alignment: Alignment | None = None  # of the second on the first; None: their names tie them

    @property
    def evidence(self) -> str:
        """The kind of evidence, in words."""
        if self.alignment is None:
            return "names"
        return "whole image" if self.alignment.score >= SAME else "part of the image"


@dataclass(frozen=True)
class Groups:
    """All images' groups, and the links that tie them: a spanning tree of each group."""

    of: dict[str, str]  # id -> group, named by the first of its members' names
    links: tuple[Link, ...]

    @property
    def count(self) -> int:
        """How many there are, single images included."""
        return len(set(self.of.values()))


def find_groups(fingerprints: Fingerprints, *, names: bool = True) -> Groups:
    """Join what shows the same thing: by content, then by the groups that the reader took from names.

    Without `names` by content alone. Candidates are tried from the likeliest on; those within a group found
    already are not compared, and two groups are left apart after `FAILURES` pairs of theirs differed.
    """
    samples = fingerprints.samples
    forest = _Forest(len(samples))
    links: list[Link] = []
    failures: defaultdict[tuple[int, int], int] = defaultdict(int)
    candidates = find_candidates(fingerprints)
    chunks = [candidates[start : start + CHUNK] for start in range(0, len(candidates), CHUNK)]
    with ThreadPoolExecutor(available_cores()) as pool:
        for chunk in progress(chunks, len(chunks), "comparing"):
            open_ones = [one for one in chunk if _is_open(one, forest, failures)]
            for candidate, alignment in zip(open_ones, pool.map(partial(align, fingerprints), open_ones), strict=True):
                roots = forest.roots(candidate.first, candidate.second)
                if roots[0] == roots[1]:
                    continue
                if alignment.same:
                    forest.join(candidate.first, candidate.second)
                    ids = samples[candidate.first].id, samples[candidate.second].id
                    links.append(Link(*ids, alignment))
                else:
                    failures[roots] += 1
    for first, second in _named_pairs(samples) if names else ():
        roots = forest.roots(first, second)
        if roots[0] != roots[1]:
            forest.join(first, second)
            links.append(Link(samples[first].id, samples[second].id))
    return Groups(_named(samples, forest), tuple(links))


def _is_open(candidate: Candidate, forest: "_Forest", failures: dict[tuple[int, int], int]) -> bool:
    roots = forest.roots(candidate.first, candidate.second)
    return roots[0] != roots[1] and failures.get(roots, 0) < FAILURES


def _named_pairs(samples: Iterable[Sample]) -> Iterable[tuple[int, int]]:
    members: defaultdict[str, list[int]] = defaultdict(list)
    for index, sample in enumerate(samples):
        members[sample.group].append(index)
    for group in members.values():
        yield from pairwise(group)


def _named(samples: tuple[Sample, ...], forest: "_Forest") -> dict[str, str]:
    names: dict[int, str] = {}
    for index, sample in enumerate(samples):
        root = forest.root(index)
        names[root] = min(names.get(root, sample.group), sample.group)
    return {sample.id: names[forest.root(index)] for index, sample in enumerate(samples)}


class _Forest:
    """Disjoint sets of 0..count-1; the root of a set is its smallest member."""

    def __init__(self, count: int) -> None:
        self._parent = list(range(count))

    def root(self, index: int) -> int:
        while (parent := self._parent[index]) != index:
            self._parent[index] = self._parent[parent]
            index = parent
        return index

    def roots(self, first: int, second: int) -> tuple[int, int]:
        one, other = self.root(first), self.root(second)
        return (one, other) if one < other else (other, one)

    def join(self, first: int, second: int) -> None:
        low, high = self.roots(first, second)
        self._parent[high] = low
