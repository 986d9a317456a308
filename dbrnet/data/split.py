"""Dividing a dataset into train, val and test, and measuring how far the splits leak into each other.

split.csv    id,split,group, one row an image, sorted by id
split.json   how the split was made, what each split holds, and what is known of leaks
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import TypeAdapter

from dbrnet.data.dataset import ClassInfo, Dataset, Sample, count_by_class, describe_fault, write_table
from dbrnet.errors import UserError
from dbrnet.files import read_json, sha256_file, write_json
from dbrnet.records import SplitCounts, TrainRecord

SPLITS = ("train", "val", "test")
SPLIT_TABLE = "split.csv"
SPLIT_FILE = "split.json"

Kind = Literal["groups", "random"]
Leaks = Literal["no", "yes"]


@dataclass(frozen=True)
class Split:
    """Which image belongs to which split, and how far a score on val or test can be trusted."""

    kind: Kind
    seed: int
    fractions: tuple[float, float, float]  # of train, val and test
    ids: dict[str, tuple[str, ...]]  # split -> ids, ascending
    groups: dict[str, str]  # id -> group
    counts: dict[str, SplitCounts]
    leaks: Leaks  # "yes" where a leak rate is above 0
    leak_rate: dict[str, float]  # val and test -> share of its images whose group is also in train
    leak_note: str  # the card's
    content_hash: str  # of the dataset that was split
    disputed: tuple[str, ...] = ()  # ids, in any split, of images whose labels the audit disputes

    def samples(self, dataset: Dataset, name: str) -> tuple[Sample, ...]:
        """The samples of the split `name`, by ascending id; `UserError` where the dataset is another one."""
        if dataset.card.content_hash != self.content_hash:
            raise UserError(f"{dataset.root} has changed since it was split; run `dbrnet split` again")
        by_id = self.regrouped(dataset).by_id
        return tuple(by_id[id_] for id_ in self.ids[name])

    @property
    def left_out(self) -> frozenset[str]:
        """Ids of the images of train that no training should see, since their labels are disputed."""
        return frozenset(self.disputed).intersection(self.ids["train"])

    def regrouped(self, dataset: Dataset) -> Dataset:
        """The dataset with the groups by which it was split in place of those that the reader found."""
        return dataset.regrouped(self.groups)

    def save(self, folder: Path) -> None:
        """Write `split.csv` and `split.json` into `folder`."""
        rows = sorted((id_, name, self.groups[id_]) for name, ids in self.ids.items() for id_ in ids)
        write_table(folder / SPLIT_TABLE, ("id", "split", "group"), rows)
        record = TypeAdapter(Split).dump_python(self, mode="json", exclude={"ids", "groups"})  # in the table
        write_json(folder / SPLIT_FILE, record)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a saved split; raises `UserError` where a file is missing or broken, or the two disagree."""
        record = read_json(folder / SPLIT_FILE)
        try:
            rows = list(csv.DictReader(io.StringIO((folder / SPLIT_TABLE).read_text())))
            ids: dict[str, list[str]] = {name: [] for name in SPLITS}
            for row in rows:
                ids[row["split"]].append(row["id"])
            groups = {row["id"]: row["group"] for row in rows}
            if len(groups) != len(rows):
                raise ValueError(f"an id is listed twice in {SPLIT_TABLE}")
            split = TypeAdapter(cls).validate_python(record | {"ids": ids, "groups": groups})
        except FileNotFoundError:
            raise UserError(f"{folder / SPLIT_TABLE} does not exist; run `dbrnet split` again") from None
        except (KeyError, ValueError, csv.Error) as error:
            raise UserError(
                f"{folder} is not a split this version reads ({describe_fault(error)}); split again"
            ) from None
        for name in SPLITS:
            listed, counted = len(ids[name]), split.counts[name].images
            if listed != counted:
                raise UserError(
                    f"{folder / SPLIT_TABLE} lists {listed} images in {name}, and {SPLIT_FILE} says {counted}; "
                    "split again"
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

    `groups` maps each id to its group of near-duplicates, which the audit finds. "groups" keeps every group
    whole and stratifies by class, so that rare classes reach every split; groups of `previous`, the split of
    an earlier state of the dataset, stay in their splits. "random" is the random split by image of the paper
    (section 3.1), for comparison: near-duplicates cross it. The result depends on the samples and the seed,
    not on the samples' order. Raises `UserError` where a class is too rare to reach every split.
    """
    samples = sorted(dataset.regrouped(groups).samples, key=lambda sample: sample.id)
    classes = dataset.card.classes
    if len(samples) < len(SPLITS):
        raise UserError(f"the dataset has {len(samples)} images, and a split needs at least {len(SPLITS)}")
    if kind == "groups":
        split_of_group = stratify_groups(samples, fractions, seed, _kept_from(previous, samples))
        assigned = [split_of_group[sample.group] for sample in samples]
    else:
        assigned = _assign_at_random(len(samples), fractions, seed)
    held: dict[str, list[Sample]] = {name: [] for name in SPLITS}
    for sample, index in zip(samples, assigned, strict=True):
        held[SPLITS[index]].append(sample)
    counts = {
        name: SplitCounts(
            images=len(held[name]),
            groups=len({sample.group for sample in held[name]}),
            images_by_class=count_by_class(held[name], classes),
        )
        for name in SPLITS
    }
    _require_reach(samples, counts, classes, kind)
    trained = {sample.group for sample in held["train"]}
    leak_rate = {name: sum(sample.group in trained for sample in held[name]) / len(held[name]) for name in SPLITS[1:]}
    return Split(
        kind=kind,
        seed=seed,
        fractions=fractions,
        ids={name: tuple(sample.id for sample in held[name]) for name in SPLITS},
        groups={sample.id: sample.group for sample in samples},
        counts=counts,
        leaks="yes" if any(leak_rate.values()) else "no",
        leak_rate=leak_rate,
        leak_note=dataset.card.leak_note,
        content_hash=dataset.card.content_hash,
    )


def stratify_groups(
    samples: Sequence[Sample], fractions: Sequence[float], seed: int, kept: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Iterative stratification (Sechidis et al. 2011) over groups: group -> index of its part, a part a fraction.

    The rarest class is assigned first. Each of its groups goes to the part that lacks the largest share of
    what it should have of that class, the biggest groups first, while there is room to even them out. The groups
    of `kept` are in their parts already.
    """
    sizes = Counter(sample.group for sample in samples)
    strata: dict[str, Counter[int]] = {group: Counter() for group in sizes}
    for sample in samples:
        strata[sample.group].update(sample.strata)
    names = sorted(sizes)
    order = [names[index] for index in np.random.default_rng(seed).permutation(len(names))]
    order.sort(key=lambda group: -sizes[group])

    images_wanted = [fraction * len(samples) for fraction in fractions]
    totals = sum(strata.values(), Counter[int]())
    wanted = {label: [fraction * count for fraction in fractions] for label, count in totals.items()}
    groups_left = Counter(label for counts in strata.values() for label in counts)
    unreached = {label: set(range(len(fractions))) for label in totals}
    part_of: dict[str, int] = {}

    def assign(group: str, index: int) -> None:
        part_of[group] = index
        images_wanted[index] -= sizes[group]
        for held, count in strata[group].items():
            wanted[held][index] -= count
            groups_left[held] -= 1
            unreached[held].discard(index)

    for group, index in (kept or {}).items():
        assign(group, index)
    while len(part_of) < len(sizes):
        label = min(+groups_left, key=lambda label: (groups_left[label], label))
        for group in order:
            if group in part_of or label not in strata[group]:
                continue
            index = max(
                _parts_in_need(strata[group], groups_left, unreached, len(fractions)),
                key=lambda index: (wanted[label][index] / fractions[index], images_wanted[index] / fractions[index]),
            )
            assign(group, index)
    return part_of


def trained_ids(table: Path) -> frozenset[str]:
    """The ids that a split.csv, of any version and dataset, has in train."""
    with table.open(newline="") as file:
        return frozenset(row["id"] for row in csv.DictReader(file) if row["split"] == "train")


def require_trained_on(lineage: TrainRecord, dataset: Dataset, split: Path) -> None:
    """Raise `UserError` unless the training of `lineage` saw this dataset and this split.

    Compares the dataset's content hash and the SHA-256 of split.csv. On other data the test split may hold
    images learned from, and what the lineage says of leaks holds for its own split alone.
    """
    table = split / SPLIT_TABLE
    risk = "and its test split may hold images learned from; give the {} of that training, or train again"
    trained, content = lineage.dataset.content_hash, dataset.card.content_hash
    if trained != content:
        raise UserError(
            f"{dataset.root} holds other images (content {content[:8]}) than the network was trained on "
            f"({trained[:8]}), {risk.format('dataset')}"
        )
    if not table.is_file():
        raise UserError(f"{table} does not exist; give the split of that training")
    trained, content = lineage.split.sha256, sha256_file(table)
    if trained != content:
        raise UserError(
            f"{table} (SHA-256 {content[:8]}) is not the split that the network was trained on "
            f"({trained[:8]}), {risk.format('split')}"
        )


def _require_reach(
    samples: list[Sample], counts: Mapping[str, SplitCounts], classes: tuple[ClassInfo, ...], kind: Kind
) -> None:
    for label, info in enumerate(classes[1:], start=1):
        held = {sample.group if kind == "groups" else sample.id for sample in samples if label in sample.classes}
        if len(held) < len(SPLITS):
            raise UserError(
                f"class {info.name!r} has {len(held)} {'groups' if kind == 'groups' else 'images'}, and "
                f"needs {len(SPLITS)} to reach train, val and test; add images of it or drop the class"
            )
        for name in SPLITS if kind == "groups" else ():
            if not counts[name].images_by_class[info.name]:
                raise UserError(
                    f"class {info.name!r} does not reach {name} with this seed, since its groups hold "
                    "other rare classes too; choose another split.seed or add images of it"
                )


def _kept_from(previous: Split | None, samples: list[Sample]) -> dict[str, int]:
    """The groups that a previous split knew -> index of their split.

    New images may join two groups of different splits. The joint group goes to the first of the two in the
    order train, val, test: the model must not be scored on what it has learned from.
    """
    if previous is None:
        return {}
    split_of = {id_: SPLITS.index(name) for name, ids in previous.ids.items() for id_ in ids}
    kept: dict[str, int] = {}
    for sample in samples:
        if (index := split_of.get(sample.id)) is not None:
            kept[sample.group] = min(index, kept.get(sample.group, index))
    return kept


def _parts_in_need(
    held: Iterable[int], groups_left: Counter[int], unreached: dict[int, set[int]], parts: int
) -> list[int]:
    """The parts that a group may go to: where a class is down to its last groups, those still without it."""
    allowed = set(range(parts))
    for label in sorted(held, key=lambda label: (groups_left[label], label)):
        if groups_left[label] <= len(unreached[label]):
            allowed = (allowed & unreached[label]) or allowed
    return sorted(allowed)


def _assign_at_random(images: int, fractions: tuple[float, ...], seed: int) -> list[int]:
    bounds = [round(images * share) for share in accumulate(fractions)][:-1]
    ranks = np.random.default_rng(seed).permutation(images)
    assigned: list[int] = np.searchsorted(bounds, ranks, side="right").tolist()
    for index, name in enumerate(SPLITS):
        if index not in assigned:
            raise UserError(f"{images} images are too few to give {name} a share of {fractions[index]:g}")
    return assigned
