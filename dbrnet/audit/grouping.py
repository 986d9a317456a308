"""Groups of near-duplicates, with the evidence for each link."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, pairwise

from dbrnet.audit.fingerprint import Fingerprints
from dbrnet.audit.matching import SAME, Alignment, Candidate, align, find_candidates
from dbrnet.progress import progress
from dbrnet.provenance import available_cores

CHUNK = 256  # candidates compared at a time; fixed, since it affects the result
WHOLE = "whole image"  # evidence of a link: it coincides as a whole
FAILURES = 3  # failed candidates between two groups after which they are not compared again


@dataclass(frozen=True)
class Link:
    """Why two images are in one group: by their names, or since their textures coincide."""

    first: str
    second: str
    alignment: Alignment | None = None  # of the second on the first; None: linked by their names

    @property
    def evidence(self) -> str:
        """The kind of evidence, in words."""
        if self.alignment is None:
            return "names"
        return WHOLE if self.alignment.score >= SAME else "part of the image"


@dataclass(frozen=True)
class Groups:
    """The group of each image, and the links of a spanning tree of each group."""

    of: dict[str, str]  # id -> group, the first of its members' group names
    links: tuple[Link, ...]

    @property
    def count(self) -> int:
        """How many groups there are, single images included."""
        return len(set(self.of.values()))


def find_groups(fingerprints: Fingerprints, *, names: bool = True) -> Groups:
    """Join near-duplicates: by content, then, with `names`, by the groups that the reader took from names.

    Candidates are compared from the likeliest on. Two images of one group are not compared, and two groups stay
    apart after `FAILURES` pairs between them differed.
    """
    samples = fingerprints.samples
    forest = _Forest(len(samples))
    links: list[Link] = []
    failures: defaultdict[tuple[int, int], int] = defaultdict(int)

    def is_undecided(candidate: Candidate) -> bool:
        roots = forest.roots(candidate.first, candidate.second)
        return roots[0] != roots[1] and failures.get(roots, 0) < FAILURES

    candidates = find_candidates(fingerprints)
    chunks = [candidates[start : start + CHUNK] for start in range(0, len(candidates), CHUNK)]
    with ThreadPoolExecutor(available_cores()) as pool:
        for chunk in progress(chunks, len(chunks), "comparing"):
            undecided = [candidate for candidate in chunk if is_undecided(candidate)]
            for candidate, alignment in zip(undecided, pool.map(partial(align, fingerprints), undecided), strict=True):
                roots = forest.roots(candidate.first, candidate.second)
                if roots[0] == roots[1]:
                    continue
                if alignment.is_match:
                    forest.join(candidate.first, candidate.second)
                    ids = samples[candidate.first].id, samples[candidate.second].id
                    links.append(Link(*ids, alignment))
                else:
                    failures[roots] += 1
    members: defaultdict[str, list[int]] = defaultdict(list)  # by the reader's groups
    for index, sample in enumerate(samples if names else ()):
        members[sample.group].append(index)
    for first, second in chain.from_iterable(map(pairwise, members.values())):
        roots = forest.roots(first, second)
        if roots[0] != roots[1]:
            forest.join(first, second)
            links.append(Link(samples[first].id, samples[second].id))
    group_names: dict[int, str] = {}
    for index, sample in enumerate(samples):
        root = forest.root(index)
        group_names[root] = min(group_names.get(root, sample.group), sample.group)
    of = {sample.id: group_names[forest.root(index)] for index, sample in enumerate(samples)}
    return Groups(of, tuple(links))


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
        """The roots of two members, the smaller one first."""
        pair = self.root(first), self.root(second)
        return min(pair), max(pair)

    def join(self, first: int, second: int) -> None:
        low, high = self.roots(first, second)
        self._parent[high] = low
