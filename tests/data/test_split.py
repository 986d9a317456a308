import csv
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbrnet.data.dataset import Dataset, Sample
from dbrnet.data.split import SPLIT_TABLE, SPLITS, Kind, Split, require_trained_on, split_samples
from dbrnet.errors import UserError
from dbrnet.files import sha256_file
from dbrnet.records import TrainRecord
from tests.data import conftest
from tests.reports.examples import change, train

NAMES = ("background", "scratch", "patch", "pit")
FRACTIONS = (0.6, 0.2, 0.2)
Images = list[tuple[str, tuple[int, ...]]]  # group and classes of each


def make_dataset(images: Images, leak_note: str = "") -> Dataset:
    samples = (
        Sample(f"p{index:05}", "", "", 8, 8, classes, group, "", "") for index, (group, classes) in enumerate(images)
    )
    return conftest.make_dataset(Path("made-up"), tuple(samples), NAMES, leak_note)


def split(dataset: Dataset, kind: Kind = "groups", seed: int = 0, previous: Split | None = None) -> Split:
    groups = {sample.id: sample.group for sample in dataset.samples}
    return split_samples(dataset, groups, kind=kind, fractions=FRACTIONS, seed=seed, previous=previous)


def strips(count: int, seed: int = 0) -> Images:
    """Strips of one to four copies; class 1 in a third of them, 2 in a fifth, 3 in a twentieth."""
    rng = np.random.default_rng(seed)
    images: Images = []
    for strip in range(count):
        classes = tuple(label for label, share in ((1, 3), (2, 5), (3, 20)) if strip % share == 0)
        images += [(f"s{strip:04}", classes)] * int(rng.integers(1, 5))
    return images


@st.composite
def datasets(draw: st.DrawFn) -> Dataset:
    """Groups whose images hold at most one class, each class in at least three groups."""
    groups = [*(label for label in (1, 2, 3) for _ in range(draw(st.integers(3, 9))))]
    groups += [0] * draw(st.integers(0, 30))
    images: Images = []
    for index, label in enumerate(groups):
        images += [(f"g{index}", (label,) if label else ())] * draw(st.integers(1, 4))
    return make_dataset(draw(st.permutations(images)))


@given(dataset=datasets(), seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["groups", "random"]), data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_image_is_in_exactly_one_split_whatever_their_order(
    dataset: Dataset, seed: int, kind: Kind, data: st.DataObject
) -> None:
    made = split(dataset, kind, seed)
    assert sorted(id_ for name in SPLITS for id_ in made.ids[name]) == sorted(dataset.by_id)
    assert all(made.ids[name] == tuple(sorted(made.ids[name])) for name in SPLITS)
    shuffled = replace(dataset, samples=tuple(data.draw(st.permutations(dataset.samples))))
    assert split(shuffled, kind, seed) == made


@given(dataset=datasets(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_groups_stay_whole_and_every_class_reaches_every_split(dataset: Dataset, seed: int) -> None:
    made = split(dataset, seed=seed)
    groups = {name: {dataset.by_id[id_].group for id_ in made.ids[name]} for name in SPLITS}
    assert sum(map(len, groups.values())) == dataset.card.groups
    assert all(made.counts[name].images_by_class[defect] for name in SPLITS for defect in NAMES[1:])
    assert (made.leaks, made.leak_rate) == ("no", {"val": 0, "test": 0})


@pytest.mark.parametrize("kind", ["groups", "random"])
def test_seed_decides(kind: Kind) -> None:
    dataset = make_dataset(strips(100))
    first, again, other, third = (split(dataset, kind, seed).ids for seed in (0, 0, 1, 2))
    assert first == again
    assert first != other != third != first


@pytest.mark.parametrize("seed", range(5))
def test_images_and_classes_are_divided_by_the_fractions(seed: int) -> None:
    dataset = make_dataset(strips(200, seed))
    made = split(dataset, seed=seed)
    totals = Counter(label for sample in dataset.samples for label in sample.classes or (0,))
    for name, fraction in zip(SPLITS, FRACTIONS, strict=True):
        assert made.counts[name].images == pytest.approx(fraction * len(dataset.samples), rel=0.1)
        for label, class_name in enumerate(NAMES):
            expected = pytest.approx(fraction * totals[label], abs=6)
            assert made.counts[name].images_by_class[class_name] == expected, (name, class_name)


def test_big_groups_reach_every_split_alike() -> None:
    images: Images = [(f"big{i}", (1 + i % 3,)) for i in range(30) for _ in range(4)]
    images += [(f"small{i}", (1 + i % 3,)) for i in range(120)]
    made = split(make_dataset(images))
    assert [made.counts[name].groups for name in SPLITS] == pytest.approx([90, 30, 30], abs=3)


def test_random_split_is_by_image_and_its_leak_rate_is_measured() -> None:
    dataset = make_dataset(strips(200), leak_note="turned copies")
    made = split(dataset, "random")
    train = {dataset.by_id[id_].group for id_ in made.ids["train"]}
    for name in ("val", "test"):
        leaking = [id_ for id_ in made.ids[name] if dataset.by_id[id_].group in train]
        assert made.leak_rate[name] == len(leaking) / len(made.ids[name]) > 0.5
    assert (made.leaks, made.leak_note) == ("yes", "turned copies")
    sizes = [made.counts[name].images for name in SPLITS]
    assert sizes == pytest.approx([fraction * len(dataset.samples) for fraction in FRACTIONS], abs=1)


def test_given_groups_replace_those_of_the_names() -> None:
    dataset = make_dataset([(f"g{index}", (1 + index // 2 % 3,)) for index in range(60)])
    pairs = {sample.id: f"pair{index // 2}" for index, sample in enumerate(dataset.samples)}
    made = split_samples(dataset, pairs, kind="groups", fractions=FRACTIONS, seed=0)
    split_of = {id_: name for name in SPLITS for id_ in made.ids[name]}
    for first, second in zip(dataset.samples[::2], dataset.samples[1::2], strict=True):
        assert split_of[first.id] == split_of[second.id]
    assert {sample.group for sample in made.samples(dataset, "test")} <= set(pairs.values())


@given(old=st.integers(12, 60), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_images_of_the_previous_split_stay_in_their_splits(old: int, seed: int) -> None:
    images: Images = [(f"g{index // 2}", (1 + index // 2 % 3,)) for index in range(2 * old)]
    previous = split(make_dataset(images))
    images += [(f"g{index // 2}", (1 + index % 3,)) for index in range(old)]  # of known groups
    images += [(f"new{index // 3}", (1 + index // 3 % 3,)) for index in range(60)]
    made = split(make_dataset(images), seed=seed, previous=previous)
    assert all(set(previous.ids[name]) <= set(made.ids[name]) for name in SPLITS)
    assert made.leaks == "no"
    assert made.counts["test"].images == pytest.approx(0.2 * len(images), rel=0.25)


def test_groups_that_turn_out_to_be_one_go_to_train() -> None:
    dataset = make_dataset([(f"g{index}", (1 + index % 3,)) for index in range(30)])
    previous = split(dataset)
    learned, tested = previous.ids["train"][0], previous.ids["test"][0]
    groups = previous.groups | {tested: previous.groups[learned]}
    made = split_samples(dataset, groups, kind="groups", fractions=FRACTIONS, seed=0, previous=previous)
    assert {learned, tested} <= set(made.ids["train"])


@pytest.mark.parametrize(
    ("kind", "copies", "message"), [("groups", 1, "2 groups"), ("groups", 5, "2 groups"), ("random", 1, "2 images")]
)
def test_class_too_rare_is_an_error_also_with_copies(kind: Kind, copies: int, message: str) -> None:
    images: Images = [(f"g{index}", (1 + index % 2,)) for index in range(30)]
    images += [("g98", (3,)), ("g99", (3,))] * copies
    with pytest.raises(UserError, match=f"'pit' has {message}"):
        split(make_dataset(images), kind)


def test_rare_class_is_not_used_up_while_another_is_assigned() -> None:
    images: Images = [("a", (1, 2)), ("a", (1, 2)), ("b", (1,)), ("b", (1,)), ("c", (2, 3)), ("c", (2, 3))]
    images += [("d", (1, 2, 3)), ("e", (1, 2, 3)), ("f", (2, 3))]
    for seed in range(20):
        made = split(make_dataset(images), seed=seed)
        assert all(made.counts[name].images_by_class[defect] for name in SPLITS for defect in NAMES[1:])


def test_classes_that_cannot_reach_every_split_are_an_error() -> None:
    # Any two groups share a class of three groups, so each needs a split of its own: four groups, three splits.
    with pytest.raises(UserError, match=r"class '\w+' does not reach (train|val|test)"):
        split(make_dataset([("a", (1, 2, 3)), ("b", (1, 2)), ("c", (1, 3)), ("d", (2, 3))]))


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Dataset, Split]:
    """A dataset, and its split as saved in `tmp_path`."""
    dataset = make_dataset(strips(100))
    made = split(dataset)
    made.save(tmp_path)
    return dataset, made


def test_saved_split_loads_unchanged(saved: tuple[Dataset, Split], tmp_path: Path) -> None:
    dataset, made = saved
    assert Split.load(tmp_path) == made
    rows = list(csv.reader((tmp_path / "split.csv").open()))
    assert rows[0] == ["id", "split", "group"]
    assert rows[1:] == sorted(rows[1:])
    assert [sample.id for sample in made.samples(dataset, "val")] == list(made.ids["val"])


def test_split_of_another_dataset_is_refused(saved: tuple[Dataset, Split], tmp_path: Path) -> None:
    record = json.loads((tmp_path / "split.json").read_text())
    (tmp_path / "split.json").write_text(json.dumps(record | {"content_hash": "other content"}))
    with pytest.raises(UserError, match="has changed since it was split"):
        Split.load(tmp_path).samples(saved[0], "val")


@pytest.mark.usefixtures("saved")
@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("split.csv", "p00003,", "p00002,", "listed twice"),
        ("split.csv", "p00003,", "p00003,not", "not a split this version reads"),
        ("split.csv", "id,split,", "name,split,", "not a split this version reads"),
        ("split.json", '"counts"', '"count"', "not a split this version reads"),
        ("split.json", '"seed"', '"seeds"', "not a split this version reads"),
    ],
)
def test_broken_split_is_an_error_in_one_line(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as caught:
        Split.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("saved")
def test_shortened_and_missing_tables_are_errors(tmp_path: Path) -> None:
    table = tmp_path / SPLIT_TABLE
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(UserError, match=r"lists \d+ images in \w+, and split.json says"):
        Split.load(tmp_path)
    table.unlink()
    with pytest.raises(UserError, match="does not exist"):
        Split.load(tmp_path)


def lineage(dataset: Dataset, split: Path) -> TrainRecord:
    """The record of a training on this dataset and this split."""
    table = sha256_file(split / SPLIT_TABLE)
    return change(train(), dataset__content_hash=dataset.card.content_hash, split__sha256=table)


@pytest.mark.parametrize("change", [lambda table: table.replace(",train,", ",test,", 1), lambda table: table + "\n"])
def test_only_the_split_of_the_training_is_accepted(
    saved: tuple[Dataset, Split], tmp_path: Path, change: Callable[[str], str]
) -> None:
    trained, table = lineage(saved[0], tmp_path), tmp_path / SPLIT_TABLE
    require_trained_on(trained, saved[0], tmp_path)
    table.write_text(change(table.read_text()))
    with pytest.raises(UserError, match=r"split\.csv \(SHA-256 \w{8}\) is not the split .* learned from"):
        require_trained_on(trained, saved[0], tmp_path)


def test_only_the_dataset_of_the_training_is_accepted(saved: tuple[Dataset, Split], tmp_path: Path) -> None:
    dataset, _ = saved
    other = replace(dataset, card=replace(dataset.card, content_hash="other" * 13))
    with pytest.raises(UserError, match=r"made-up holds other images \(content otherot.*train again"):
        require_trained_on(lineage(dataset, tmp_path), other, tmp_path)
