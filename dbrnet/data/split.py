"""Dividing a dataset into train, val and test, and saying how far the splits leak into each other.

split.csv    id,split,group, one row an image, sorted by id
split.json   how the split was made, what each split holds, and what is known of leaks
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from dbrnet.data.dataset import ClassInfo, Dataset, Sample
from dbrnet.errors import UserError
from dbrnet.files import read_json, write_atomically, write_json
from dbrnet.records import SplitCounts

SPLITS = ("train", "val", "test")
SPLIT_TABLE = "split.csv"
SPLIT_FILE = "split.json"

Kind = Literal["groups", "random"]
Leaks = Literal["no", "yes"]


@dataclass(frozen=True)
class Split:
    """Which image belongs to which split, and how much a score on val or test is worth.

    `leak_rate` is, for val and for test, the share of its images whose group is also in train.
    `leaks` is "yes" where such a share is above 0. `leak_note` is the card's.
    """

    kind: Kind
    seed: int
    fractions: tuple[float, float, float]
    ids: dict[str, tuple[str, ...]]  # by split, ascending
    groups: dict[str, str]  # id -> group, as the split was made by
    counts: dict[str, SplitCounts]
    leaks: Leaks
    leak_rate: dict[str, float]
    leak_note: str
    content_hash: str  # of the dataset that was split

    def samples(self, dataset: Dataset, split_name: str) -> tuple[Sample, ...]:
        """The split's samples, in the order of their ids; `UserError` where the dataset is another one."""
        if dataset.card.content_hash != self.content_hash:
            raise UserError(f"{dataset.root} has changed since it was split; run `dbrnet split` again")
        by_id = self.regrouped(dataset).by_id
        return tuple(by_id[id_] for id_ in self.ids[split_name])

    def regrouped(self, dataset: Dataset) -> Dataset:
        """The dataset with the groups by which it was split in place of those that names alone gave."""
        return dataset.regrouped(self.groups)

    def save(self, folder: Path) -> None:
        """Write `split.csv` and `split.json` into `folder`."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("id", "split", "group"))
        rows = ((id_, split_name, self.groups[id_]) for split_name, ids in self.ids.items() for id_ in ids)
        writer.writerows(sorted(rows))
        write_atomically(folder / SPLIT_TABLE, text.getvalue())
        table = {"ids", "groups"}
        content = {key: value for key, value in asdict(self).items() if key not in table}
        content["counts"] = {name: counts.model_dump() for name, counts in self.counts.items()}
        write_json(folder / SPLIT_FILE, content)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a saved split; raises `UserError` where a file is missing, broken or belies the other."""
        raw = read_json(folder / SPLIT_FILE)
        try:
            splits, groups = _parse_table((folder / SPLIT_TABLE).read_text())
            raw["counts"] = {split_name: SplitCounts(**raw["counts"][split_name]) for split_name in SPLITS}
            raw["fractions"] = tuple(raw["fractions"])
            split = cls(ids=splits, groups=groups, **raw)
        except FileNotFoundError:
            raise UserError(f"{folder / SPLIT_TABLE} does not exist; run `dbrnet split` again") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{folder} is not a split this version reads ({error}); split again") from None
        for split_name in SPLITS:
            listed, counted = len(splits[split_name]), split.counts[split_name].images
            if listed != counted:
                raise UserError(
                    f"{folder / SPLIT_TABLE} lists {listed} images in {split_name}, and {SPLIT_FILE} says "
                    f"{counted}; split again"
                )
        return split


def split_samples(
    dataset: Dataset,
    groups: Mapping[str, str],
    *,
    kind: Kind,
    fractions: tuple[float, float, float],
    seed: int,
    previous: Split | None = None,
) -> Split:
    """Divide `dataset` into train, val and test of about the given `fractions`.

    `groups` says of each id which images show the same thing (the audit finds them).
    "groups" keeps every group whole and stratifies by class, so that rare classes reach every split.
    Groups that `previous`, a split of an earlier state of the dataset, knew stay in their splits.
    "random" is the plain random split by image of the paper (section 3.1), for comparison: near-copies
    fall on both sides of it. The result depends on the samples, not on their order, and on the seed.
    Raises `UserError` where a class is too rare to reach every split.
    """
    samples = sorted(dataset.regrouped(groups).samples, key=lambda sample: sample.id)
    classes = dataset.card.classes
    _require_enough(samples, classes, kind)
    if kind == "groups":
        split_of_group = _assign_groups(samples, fractions, seed, _settled(samples, previous))
        assigned = [split_of_group[sample.group] for sample in samples]
        _require_reach(samples, assigned, classes)
    else:
        assigned = _assign_at_random(len(samples), fractions, seed)
    held = {
        split_name: [s for s, index in zip(samples, assigned, strict=True) if SPLITS[index] == split_name]
        for split_name in SPLITS
    }
    shares = _leak_rates(held)
    return Split(
        kind=kind,
        seed=seed,
        fractions=fractions,
        ids={split_name: tuple(sample.id for sample in held[split_name]) for split_name in SPLITS},
        groups={sample.id: sample.group for sample in samples},
        counts={split_name: _count(held[split_name], classes) for split_name in SPLITS},
        leaks="yes" if any(shares.values()) else "no",
        leak_rate=shares,
        leak_note=dataset.card.leak_note,
        content_hash=dataset.card.content_hash,
    )


def _strata(sample: Sample) -> tuple[int, ...]:
    """The classes an image counts for; a defect-free one counts for the background."""
    return sample.classes or (0,)


def _require_enough(samples: list[Sample], classes: tuple[ClassInfo, ...], kind: Kind) -> None:
    unit = "groups" if kind == "groups" else "images"
    holders = {index: set[str]() for index in range(len(classes))}
    for sample in samples:
        for label in sample.classes:
            holders[label].add(sample.group if kind == "groups" else sample.id)
    for index, info in enumerate(classes[1:], start=1):
        if len(holders[index]) < len(SPLITS):
            raise UserError(
                f"class {info.name!r} has {len(holders[index])} {unit}, and needs {len(SPLITS)} to reach "
                "train, val and test; add images of it or drop the class"
            )
    if len(samples) < len(SPLITS):
        raise UserError(f"the dataset has {len(samples)} images, and a split needs at least {len(SPLITS)}")


def _settled(samples: list[Sample], previous: Split | None) -> dict[str, int]:
    """The splits of the groups that a previous split knew.

    Where new images show that two groups of different splits are one, it goes to the split that has had the
    more influence on the model, train before val before test: what was learned from must not be scored on.
    """
    split_of = {id_: SPLITS.index(name) for name, ids in previous.ids.items() for id_ in ids} if previous else {}
    splits: dict[str, int] = {}
    for sample in samples:
        if (index := split_of.get(sample.id)) is not None:
            splits[sample.group] = min(index, splits.get(sample.group, index))
    return splits


def _assign_groups(
    samples: list[Sample], fractions: tuple[float, ...], seed: int, settled: dict[str, int]
) -> dict[str, int]:
    """Iterative stratification (Sechidis et al. 2011) over groups: group -> index of its split.

    The rarest class is dealt out first, each of its groups to the split that lacks the largest share
    of what it should have of that class, the biggest first, while there is still room to even them out.
    """
    sizes = Counter(sample.group for sample in samples)
    strata: dict[str, Counter[int]] = {group: Counter() for group in sizes}
    for sample in samples:
        strata[sample.group].update(_strata(sample))
    names = sorted(sizes)
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    order.sort(key=lambda group: -sizes[group])

    images_wanted = [fraction * len(samples) for fraction in fractions]
    totals = sum(strata.values(), Counter[int]())
    wanted = {label: [fraction * count for fraction in fractions] for label, count in totals.items()}
    groups_left = Counter(label for counts in strata.values() for label in counts)
    unreached = {label: set(range(len(SPLITS))) for label in totals}
    split_of_group: dict[str, int] = {}

    def assign(group: str, index: int) -> None:
        split_of_group[group] = index
        images_wanted[index] -= sizes[group]
        for held, count in strata[group].items():
            wanted[held][index] -= count
            groups_left[held] -= 1
            unreached[held].discard(index)

    for group, index in settled.items():
        assign(group, index)
    while len(split_of_group) < len(sizes):
        label = min(+groups_left, key=lambda label: (groups_left[label], label))
        for group in order:
            if group in split_of_group or label not in strata[group]:
                continue
            index = max(
                _splits_in_need(strata[group], groups_left, unreached),
                key=lambda index: (wanted[label][index] / fractions[index], images_wanted[index] / fractions[index]),
            )
            assign(group, index)
    return split_of_group


def _splits_in_need(held: Iterable[int], groups_left: Counter[int], unreached: dict[int, set[int]]) -> list[int]:
    """The splits a group may go to: where a class is down to its last groups, those still without it."""
    allowed = set(range(len(SPLITS)))
    for label in sorted(held, key=lambda label: (groups_left[label], label)):
        if groups_left[label] <= len(unreached[label]):
            allowed = (allowed & unreached[label]) or allowed
    return sorted(allowed)


def _require_reach(samples: list[Sample], assigned: list[int], classes: tuple[ClassInfo, ...]) -> None:
    reached = {(label, place) for s, place in zip(samples, assigned, strict=True) for label in s.classes}
    for index, info in enumerate(classes[1:], start=1):
        for place, name in enumerate(SPLITS):
            if (index, place) not in reached:
                raise UserError(
                    f"class {info.name!r} does not reach {name} with this seed, since its groups hold "
                    "other rare classes too; choose another split.seed or add images of it"
                )


def _assign_at_random(images: int, fractions: tuple[float, ...], seed: int) -> list[int]:
    bounds = [round(images * share) for share in accumulate(fractions)][:-1]
    ranks = np.random.default_rng(seed).permutation(images)
    assigned: list[int] = np.searchsorted(bounds, ranks, side="right").tolist()
    for index, name in enumerate(SPLITS):
        if index not in assigned:
            raise UserError(f"{images} images are too few to give {name} a share of {fractions[index]:g}")
    return assigned


def _leak_rates(held: dict[str, list[Sample]]) -> dict[str, float]:
    trained = {sample.group for sample in held["train"]}
    return {
        split_name: sum(s.group in trained for s in held[split_name]) / len(held[split_name])
        for split_name in SPLITS[1:]
    }


def _count(samples: list[Sample], classes: tuple[ClassInfo, ...]) -> SplitCounts:
    present = Counter(label for sample in samples for label in _strata(sample))
    by_class = {info.name: present[index] for index, info in enumerate(classes)}
    return SplitCounts(images=len(samples), groups=len({sample.group for sample in samples}), images_by_class=by_class)


def _parse_table(text: str) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The ids of each split, and the group of each id."""
    rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text)))
    ids: dict[str, list[str]] = {split_name: [] for split_name in SPLITS}
    for row in rows:
        ids[row["split"]].append(row["id"])
    groups = {row["id"]: row["group"] for row in rows}
    if len(groups) != len(rows):
        raise ValueError(f"an id is listed twice in {SPLIT_TABLE}")
    return {split_name: tuple(sorted(listed)) for split_name, listed in ids.items()}, groups
