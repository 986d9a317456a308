import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbrnet.data.dataset import Card, ClassInfo, Dataset, Sample
from dbrnet.data.split import SPLITS, Kind, Split, split_samples
from dbrnet.errors import UserError

NAMES = ("background", "scratch", "patch", "pit")
FRACTIONS = (0.6, 0.2, 0.2)
Images = list[tuple[str, tuple[int, ...]]]  # group and classes of each


def make_dataset(images: Images, *, group_rule: str = "by strip", leak_note: str = "") -> Dataset:
    samples = tuple(
        Sample(f"p{index:05}", "", "", 8, 8, classes, group, "") for index, (group, classes) in enumerate(images)
    )
    card = Card(
        name="made-up",
        title="",
        classes=tuple(ClassInfo(name, (0, 0, 0)) for name in NAMES),
        homepage="",
        citation="",
        licence="",
        group_rule=group_rule,
        leak_note=leak_note,
        notes=(),
        images=len(samples),
        groups=len({sample.group for sample in samples}),
        images_by_class={},
        pixel_shares={},
        content_hash="the content",
    )
    return Dataset(Path("made-up"), card, samples)


def split(dataset: Dataset, kind: Kind = "groups", seed: int = 0) -> Split:
    groups = {sample.id: sample.group for sample in dataset.samples}
    return split_samples(dataset, groups, kind=kind, fractions=FRACTIONS, seed=seed)


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


@given(dataset=datasets(), seed=st.integers(0, 2**32 - 1), kind=st.sampled_from(["groups", "random"]))
@settings(max_examples=60, deadline=None)
def test_every_image_is_in_exactly_one_split(dataset: Dataset, seed: int, kind: Kind) -> None:
    made = split(dataset, kind, seed)
    listed = [id_ for split_name in SPLITS for id_ in made.ids[split_name]]
    assert sorted(listed) == sorted(sample.id for sample in dataset.samples)
    assert all(made.ids[split_name] == tuple(sorted(made.ids[split_name])) for split_name in SPLITS)


@given(dataset=datasets(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_groups_stay_whole_and_every_class_reaches_every_split(dataset: Dataset, seed: int) -> None:
    made = split(dataset, seed=seed)
    groups = {split_name: {dataset.by_id[id_].group for id_ in made.ids[split_name]} for split_name in SPLITS}
    assert sum(len(held) for held in groups.values()) == dataset.card.groups
    for split_name in SPLITS:
        assert set(NAMES[1:]) <= {name for name, count in made.counts[split_name].images_by_class.items() if count}
    assert made.leak_rate == {"val": 0, "test": 0}


@given(dataset=datasets(), data=st.data(), kind=st.sampled_from(["groups", "random"]))
@settings(max_examples=30, deadline=None)
def test_the_order_of_the_table_does_not_matter(dataset: Dataset, data: st.DataObject, kind: Kind) -> None:
    shuffled = Dataset(dataset.root, dataset.card, tuple(data.draw(st.permutations(dataset.samples))))
    assert split(shuffled, kind) == split(dataset, kind)


@pytest.mark.parametrize("kind", ["groups", "random"])
def test_the_seed_decides(kind: Kind) -> None:
    dataset = make_dataset(strips(100))
    made = [split(dataset, kind, seed).ids for seed in (0, 0, 1, 2)]
    assert made[0] == made[1]
    assert made[0] != made[2] != made[3] != made[0]


@pytest.mark.parametrize("seed", range(5))
def test_classes_and_images_are_shared_out_as_asked(seed: int) -> None:
    dataset = make_dataset(strips(200, seed))
    made = split(dataset, seed=seed)
    totals = Counter(label for sample in dataset.samples for label in sample.classes or (0,))
    for split_name, fraction in zip(SPLITS, FRACTIONS, strict=True):
        assert made.counts[split_name].images == pytest.approx(fraction * len(dataset.samples), rel=0.1)
        for label, name in enumerate(NAMES):
            wanted = fraction * totals[label]
            assert made.counts[split_name].images_by_class[name] == pytest.approx(wanted, abs=6), (split_name, name)


def test_big_groups_reach_every_part_alike() -> None:
    images: Images = [(f"big{i}", (1 + i % 3,)) for i in range(30) for _ in range(4)]
    images += [(f"small{i}", (1 + i % 3,)) for i in range(120)]
    made = split(make_dataset(images))
    assert [made.counts[split_name].groups for split_name in SPLITS] == pytest.approx([90, 30, 30], abs=3)


def test_paper_is_random_by_image_and_its_leak_is_measured() -> None:
    dataset = make_dataset(strips(200), leak_note="turned copies")
    made = split(dataset, "random")
    train = {dataset.by_id[id_].group for id_ in made.ids["train"]}
    for split_name in ("val", "test"):
        leaking = [id_ for id_ in made.ids[split_name] if dataset.by_id[id_].group in train]
        assert made.leak_rate[split_name] == len(leaking) / len(made.ids[split_name]) > 0.5
    assert (made.leaks, made.leak_note) == ("yes", "turned copies")
    sizes = [made.counts[split_name].images for split_name in SPLITS]
    assert sizes == pytest.approx([fraction * len(dataset.samples) for fraction in FRACTIONS], abs=1)


def test_the_groups_given_count_and_not_those_of_the_names() -> None:
    images: Images = [(f"g{index}", (1 + index // 2 % 3,)) for index in range(60)]
    dataset = make_dataset(images)
    pairs = {sample.id: f"pair{index // 2}" for index, sample in enumerate(dataset.samples)}
    made = split_samples(dataset, pairs, kind="groups", fractions=FRACTIONS, seed=0)
    split_of = {id_: split_name for split_name in SPLITS for id_ in made.ids[split_name]}
    for first, second in zip(dataset.samples[::2], dataset.samples[1::2], strict=True):
        assert split_of[first.id] == split_of[second.id]
    assert {sample.group for sample in made.samples(dataset, "test")} <= set(pairs.values())


@given(old=st.integers(12, 60), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_what_was_split_before_stays_where_it_was(old: int, seed: int) -> None:
    images: Images = [(f"g{index // 2}", (1 + index // 2 % 3,)) for index in range(2 * old)]
    previous = split(make_dataset(images))
    grown = images + [(f"g{index // 2}", (1 + index % 3,)) for index in range(old)]  # of known groups
    grown += [(f"new{index // 3}", (1 + index // 3 % 3,)) for index in range(60)]
    dataset = make_dataset(grown)
    groups = {sample.id: sample.group for sample in dataset.samples}
    made = split_samples(dataset, groups, kind="groups", fractions=FRACTIONS, seed=seed, previous=previous)
    for split_name in SPLITS:
        assert set(previous.ids[split_name]) <= set(made.ids[split_name])
    assert made.leaks == "no"
    assert made.counts["test"].images == pytest.approx(0.2 * len(grown), rel=0.25)


def test_groups_that_turn_out_to_be_one_go_where_they_were_learned_from() -> None:
    images: Images = [(f"g{index}", (1 + index % 3,)) for index in range(30)]
    dataset = make_dataset(images)
    previous = split(dataset)
    learned, tested = previous.ids["train"][0], previous.ids["test"][0]
    groups = previous.groups | {tested: previous.groups[learned]}
    made = split_samples(dataset, groups, kind="groups", fractions=FRACTIONS, seed=0, previous=previous)
    assert {learned, tested} <= set(made.ids["train"])


@pytest.mark.parametrize(("kind", "unit"), [("groups", "2 groups"), ("random", "2 images")])
def test_a_class_too_rare_is_named_and_counted(kind: Kind, unit: str) -> None:
    images: Images = [(f"g{index}", (1 + index % 2,)) for index in range(30)]
    images += [("g98", (3,)), ("g99", (3,))]
    with pytest.raises(UserError, match=f"'pit' has {unit}"):
        split(make_dataset(images), kind)


def test_copies_do_not_make_a_class_common() -> None:
    images: Images = [(f"g{index}", (1 + index % 2,)) for index in range(30)]
    images += [("g98", (3,))] * 5 + [("g99", (3,))] * 5
    with pytest.raises(UserError, match="'pit' has 2 groups"):
        split(make_dataset(images))


def test_a_rare_class_is_not_used_up_while_another_is_dealt_out() -> None:
    images: Images = [("a", (1, 2)), ("a", (1, 2)), ("b", (1,)), ("b", (1,)), ("c", (2, 3)), ("c", (2, 3))]
    images += [("d", (1, 2, 3)), ("e", (1, 2, 3)), ("f", (2, 3))]
    for seed in range(20):
        made = split(make_dataset(images), seed=seed)
        assert all(made.counts[split_name].images_by_class[name] for split_name in SPLITS for name in NAMES[1:])


def test_classes_that_cannot_reach_every_part_are_named() -> None:
    # Any two strips share a class of three strips, so each needs a part of its own: four strips, three parts.
    images: Images = [("a", (1, 2, 3)), ("b", (1, 2)), ("c", (1, 3)), ("d", (2, 3))]
    with pytest.raises(UserError, match=r"class '\w+' does not reach (train|val|test)"):
        split(make_dataset(images))


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    dataset = make_dataset(strips(100))
    made = split(dataset)
    made.save(tmp_path)
    assert Split.load(tmp_path) == made
    rows = list(csv.reader((tmp_path / "split.csv").open()))
    assert rows[0] == ["id", "split", "group"]
    assert rows[1:] == sorted(rows[1:])
    assert [sample.id for sample in made.samples(dataset, "val")] == list(made.ids["val"])


def test_a_split_of_another_dataset_is_refused(tmp_path: Path) -> None:
    dataset = make_dataset(strips(100))
    made = split(dataset)
    made.save(tmp_path)
    raw = json.loads((tmp_path / "split.json").read_text())
    (tmp_path / "split.json").write_text(json.dumps(raw | {"content_hash": "other content"}))
    with pytest.raises(UserError, match="has changed since it was split"):
        Split.load(tmp_path).samples(dataset, "val")


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
def test_a_broken_split_is_one_clear_line(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    split(make_dataset(strips(100))).save(tmp_path)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as caught:
        Split.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_shortened_table_is_noticed(tmp_path: Path) -> None:
    split(make_dataset(strips(100))).save(tmp_path)
    table = tmp_path / "split.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(UserError, match=r"lists \d+ images in \w+, and split.json says"):
        Split.load(tmp_path)
    table.unlink()
    with pytest.raises(UserError, match="does not exist"):
        Split.load(tmp_path)
