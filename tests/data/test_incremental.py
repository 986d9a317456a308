"""Own data, batch by batch: what is accepted, what is rejected, and what a batch changes."""

import csv
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbrnet.data.dataset import Dataset
from dbrnet.data.incremental import Changes, build_factory_dataset
from dbrnet.errors import UserError, one_line
from tests.data.conftest import build, encoded, file_contents, square, texture, write_image

CLASSES = ("scratch", "dent")


def grow(
    source: Path, out: Path, previous: Path | None = None, *, max_quarantine: float = 1.0, bit_depth: int = 16
) -> tuple[Dataset, Changes]:
    out.mkdir()
    return build_factory_dataset(
        source, out, classes=CLASSES, previous=previous, max_quarantine=max_quarantine, bit_depth=bit_depth
    )


def add(root: Path, name: str, seed: int, label: int = 1) -> None:
    write_image(root / "images" / name, texture(30, 40, seed))
    write_image(root / "masks" / Path(name).with_suffix(".png"), square(30, 40, label))


def quarantine(root: Path) -> dict[str, str]:
    with (root / "quarantine.csv").open(newline="") as file:
        return {row["file"]: row["reason"] for row in csv.DictReader(file)}


def recount(dataset: Dataset) -> list[float]:
    masks = [dataset.mask(sample) for sample in dataset.samples]
    counts = np.sum([np.bincount(mask.ravel(), minlength=3) for mask in masks], axis=0)
    shares: list[float] = (counts / counts.sum()).tolist()
    return shares


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A batch of three images: a and b with scratches, c defect-free."""
    for seed, (name, label) in enumerate((("a.png", 1), ("b.bmp", 1), ("c.jpg", 0))):
        add(tmp_path / "first", name, seed, label)
    return tmp_path / "first"


def test_first_batch_makes_a_dataset(first: Path, tmp_path: Path) -> None:
    dataset, changes = grow(first, tmp_path / "out")
    assert Dataset.load(tmp_path / "out") == dataset
    assert [(s.id, s.image, s.classes) for s in dataset.samples] == [
        ("a", "images/a.png", (1,)),
        ("b", "images/b.png", (1,)),
        ("c", "images/c.jpg", ()),
    ]
    assert (dataset.root / "images/a.png").read_bytes() == (first / "images/a.png").read_bytes()
    assert np.array_equal(dataset.image(dataset.by_id["b"])[:, :, 0], texture(30, 40, 1))
    assert [info.name for info in dataset.card.classes] == ["background", *CLASSES]
    assert dataset.card.images_by_class == {"background": 1, "scratch": 2, "dent": 0}
    assert list(dataset.card.pixel_shares.values()) == recount(dataset)
    assert changes.new == ["a", "b", "c"]
    assert dataset.card.notes[-1].startswith("the first batch: 3 images new, 0 unchanged, 0 relabelled")
    assert quarantine(dataset.root) == {}


def test_same_batch_again_changes_no_byte(first: Path, tmp_path: Path) -> None:
    (first / "images/broken.png").write_bytes(b"")
    (first / "withdrawn.txt").write_text("c.jpg\nnever-seen\n")
    one, _ = grow(first, tmp_path / "one")
    two, changes = grow(first, tmp_path / "two", tmp_path / "one")
    assert file_contents(one.root) == file_contents(two.root)
    assert (changes.unchanged, changes.new, changes.relabelled, changes.withdrawn) == (["a", "b"], [], [], [])


def test_second_batch_is_merged_by_content(first: Path, tmp_path: Path) -> None:
    previous, _ = grow(first, tmp_path / "one")
    before = file_contents(previous.root)
    second = tmp_path / "second"
    add(second, "renamed.png", 0, 2)  # a's pixels, another mask
    add(second, "again.tiff", 1, 1)  # b's pixels and mask
    add(second, "d.png", 7, 2)
    (second / "withdrawn.txt").write_text("c\n")
    grown, changes = grow(second, tmp_path / "two", previous.root)
    assert (changes.new, changes.unchanged, changes.relabelled, changes.withdrawn) == (["d"], ["b"], ["a"], ["c"])
    assert {s.id: s.classes for s in grown.samples} == {"a": (2,), "b": (1,), "d": (2,)}
    assert Dataset.load(grown.root) == grown
    assert list(grown.card.pixel_shares.values()) == recount(grown)
    assert grown.card.content_hash != previous.card.content_hash
    assert previous.card.content_hash[:12] in grown.card.notes[-1]
    assert "1 images new, 1 unchanged, 1 relabelled, 1 withdrawn, 0 files" in grown.card.notes[-1]
    assert file_contents(previous.root) == before, "the previous dataset is only read"
    kept = {file for sample in grown.samples for file in (sample.image, sample.mask)}
    assert set(file_contents(grown.root)) == {*kept, "card.json", "samples.csv", "quarantine.csv"}
    again, _ = grow(second, tmp_path / "three", grown.root)
    assert file_contents(again.root) == file_contents(grown.root)


def test_two_batches_make_the_samples_of_one(first: Path, tmp_path: Path) -> None:
    whole, _ = grow(first, tmp_path / "whole")
    for split_name, names in (("x", "bc"), ("y", "a")):
        for path in first.rglob("*.*"):
            if path.stem in names:
                target = tmp_path / split_name / path.relative_to(first)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
    grow(tmp_path / "x", tmp_path / "one")
    grown, _ = grow(tmp_path / "y", tmp_path / "two", tmp_path / "one")
    assert grown.samples == whole.samples
    assert grown.card.content_hash == whole.card.content_hash
    assert grown.card.pixel_shares == whole.card.pixel_shares


def test_taken_name_gets_the_images_hash(first: Path, tmp_path: Path) -> None:
    previous, _ = grow(first, tmp_path / "one")
    second = tmp_path / "second"
    add(second, "A.png", 8)  # on some systems the file of a
    grown, changes = grow(second, tmp_path / "two", previous.root)
    (new,) = changes.new
    assert new == f"A-{grown.by_id[new].image_sha256[:8]}"
    assert grown.by_id[new].group == new
    (second / "withdrawn.txt").write_text(new)
    gone, changes = grow(second, tmp_path / "three", grown.root)
    assert changes.withdrawn == [new]
    assert gone.samples == previous.samples
    assert quarantine(gone.root)["images/A.png"] == f"is listed in withdrawn.txt as {new}"


def test_names_that_become_one_id_stay_distinct(first: Path, tmp_path: Path) -> None:
    for seed, name in enumerate(("x y.png", "x_y.png", "X'Y.png", "x,Y.png"), start=20):
        add(first, name, seed)
    dataset, changes = grow(first, tmp_path / "out")
    assert len(dataset.samples) == len(changes.new) == 7
    assert len({sample.id.casefold() for sample in dataset.samples}) == 7
    assert [sample.id for sample in dataset.samples if "-" not in sample.id] == ["X_Y", "a", "b", "c"]


def test_batch_that_only_withdraws(first: Path, tmp_path: Path) -> None:
    previous, _ = grow(first, tmp_path / "one")
    (tmp_path / "second").mkdir()
    (tmp_path / "second/withdrawn.txt").write_text("a\nb.png\n")
    grown, changes = grow(tmp_path / "second", tmp_path / "two", previous.root)
    assert changes.withdrawn == ["a", "b"]
    assert [sample.id for sample in grown.samples] == ["c"]
    (tmp_path / "second/withdrawn.txt").write_text("c\n")
    with pytest.raises(UserError, match="leaves no image"):
        grow(tmp_path / "second", tmp_path / "three", grown.root)


def test_image_that_comes_twice_is_accepted_once(first: Path, tmp_path: Path) -> None:
    add(first, "e.png", 0, 1)  # a once more
    add(first, "f.png", 0, 2)  # a with another mask
    dataset, _ = grow(first, tmp_path / "out")
    assert len(dataset.samples) == 3
    assert quarantine(dataset.root) == {
        "images/e.png": "is the same image as a.png",
        "images/f.png": "is the same image as a.png, and their masks differ",
        "masks/e.png": "its image, images/e.png, is not used",
        "masks/f.png": "its image, images/f.png, is not used",
    }
    with pytest.raises(UserError, match=r"1 of 4 images cannot be used"):  # a harmless copy does not count
        grow(first, tmp_path / "again", max_quarantine=0.05)


def test_too_many_unusable_images_are_an_error_in_one_line(first: Path, tmp_path: Path) -> None:
    for number in range(5):
        (first / f"images/x{number}.png").write_bytes(b"")
    dataset, _ = grow(first, tmp_path / "just", max_quarantine=5 / 8)
    assert "5 images of the last batch have no mask and are left out" in dataset.card.notes
    with pytest.raises(UserError) as caught:
        grow(first, tmp_path / "out", max_quarantine=0.6)
    message = str(caught.value)
    assert "5 of 8 images cannot be used" in message
    assert message.count("has no mask") == 3
    assert message.endswith("; ...")
    assert "\n" not in message


def test_sixteen_bits_are_noted(first: Path, tmp_path: Path) -> None:
    write_image(first / "images/a.png", texture(30, 40, 3).astype(np.uint16) * 16 + 7)  # type: ignore[arg-type]
    dataset, _ = grow(first, tmp_path / "out", bit_depth=12)
    assert np.array_equal(dataset.image(dataset.by_id["a"])[:, :, 0], texture(30, 40, 3))
    assert "1 images came with 16 bits, of which 12 are used" in " ".join(dataset.card.notes)


def test_previous_dataset_must_be_own_data_of_the_same_classes(first: Path, neu_source: Path, tmp_path: Path) -> None:
    grow(first, tmp_path / "one")
    build("neu-seg", neu_source, tmp_path / "neu")
    (tmp_path / "out").mkdir()
    for previous, classes, message in (
        ("one", ("dent", "scratch"), r"one has the classes scratch, dent and ingest.classes are dent, scratch"),
        ("neu", CLASSES, "neu is neu-seg and not own data"),
        ("nowhere", CLASSES, "does not exist"),
    ):
        with pytest.raises(UserError, match=message):
            build_factory_dataset(first, tmp_path / "out", classes=classes, previous=tmp_path / previous)


def test_hostile_names_in_an_archive_are_accepted(first: Path, tmp_path: Path) -> None:
    stems = ("with space", "quote\"and'", "new\nline", "tab\tand,comma", "längsriß", "划痕", "-rf", "=1+1", "x" * 240)
    with zipfile.ZipFile(tmp_path / "batch.zip", "w") as archive:
        for seed, stem in enumerate(stems):
            archive.writestr(f"images/{stem}.png", encoded(texture(8, 9, seed)))
            archive.writestr(f"masks/{stem}.png", encoded(square(8, 9, 1, 2)))
        archive.writestr("images/br\noken\x1b[31m.png", b"")
    dataset, changes = grow(tmp_path / "batch.zip", tmp_path / "out")
    assert len(changes.new) == len(stems)
    assert Dataset.load(dataset.root).samples == dataset.samples
    assert all(dataset.image(sample).shape == (8, 9, 3) for sample in dataset.samples)
    assert "längsriß" in dataset.by_id
    assert "划痕" in dataset.by_id
    assert list(quarantine(dataset.root)) == ["images/br\\noken\\x1b[31m.png"]


def test_name_that_is_not_text(first: Path, tmp_path: Path) -> None:
    os.rename(os.fsencode(first / "images/a.png"), os.fsencode(first / "images") + b"/a\xff.png")  # noqa: PTH104
    os.rename(os.fsencode(first / "masks/a.png"), os.fsencode(first / "masks") + b"/a\xff.png")  # noqa: PTH104
    (first / "images" / os.fsdecode(b"b\xfe.png")).write_bytes(b"")
    dataset, changes = grow(first, tmp_path / "out")
    assert changes.new == ["a_", "b", "c"]
    assert list(quarantine(dataset.root)) == ["images/b\\udcfe.png"]
    assert Dataset.load(dataset.root) == dataset


# Random mixes -----------------------------------------------------------------------------------------------


Files = dict[str, bytes]
SIZE = (9, 11)

# Each makes the image's file and its mask's (None: there is none) from a seed.
IMAGES: dict[str, Callable[[int], tuple[str, bytes]]] = {
    "png": lambda seed: (".png", encoded(texture(*SIZE, seed))),
    "jpg": lambda seed: (".jpg", encoded(texture(*SIZE, seed), ".jpg")),
    "tiff": lambda seed: (".TIF", encoded(texture(*SIZE, seed).astype(np.uint16) * 257, ".tiff")),
    "colour": lambda seed: (".bmp", encoded(cv2.merge([texture(*SIZE, seed)] * 3), ".bmp")),
    "another size": lambda seed: (".png", encoded(texture(20, 21, seed))),
    "cut short": lambda seed: (".png", encoded(texture(*SIZE, seed))[:-9]),
    "cut jpg": lambda seed: (".jpeg", encoded(texture(*SIZE, seed), ".jpg")[:-40]),
    "text": lambda seed: (".txt", b"no image"),
    "empty": lambda seed: (".png", b""),
    "upper case": lambda seed: (".PNG", encoded(texture(*SIZE, seed))),
}
GOOD_IMAGES = {"png", "jpg", "tiff", "colour", "upper case"}
MASKS: dict[str, Callable[[], bytes | None]] = {
    "defect": lambda: encoded(square(*SIZE, 2, 3)),
    "defect-free": lambda: encoded(square(*SIZE, 0)),
    "missing": lambda: None,
    "another size": lambda: encoded(square(11, 9, 1)),
    "id out of range": lambda: encoded(square(*SIZE, 3)),
    "colour": lambda: encoded(np.dstack([square(*SIZE, 1)] * 3)),
    "cut short": lambda: encoded(square(*SIZE, 1))[:-5],
    "jpg": lambda: encoded(square(*SIZE, 1), ".jpg"),
}
GOOD_MASKS = {"defect", "defect-free"}
NAMES = st.text("abc é\n\"',._-", min_size=1, max_size=3).filter(lambda name: name[0] != "." != name[-1])
ENTRIES = st.tuples(
    NAMES, st.sampled_from(sorted(IMAGES)), st.sampled_from(sorted(MASKS)), st.integers(0, 5).map(lambda n: n == 0)
)
STRANGERS = st.sets(
    st.sampled_from(["README", "images/sub/x.png", "images/.hidden", "masks/orphan.png", "other/y.png", "Thumbs.db"])
)


def _write(root: Path, files: Files) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


@given(entries=st.lists(ENTRIES, min_size=1, max_size=6, unique_by=lambda entry: entry[0]), strangers=STRANGERS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_file_is_either_in_the_dataset_or_in_quarantine(
    entries: list[tuple[str, str, str, bool]], strangers: set[str]
) -> None:
    files: Files = dict.fromkeys(strangers, b"") | {"masks/zz.png": b""}
    expected = set()
    for seed, (name, image, mask, has_twin) in enumerate(entries):
        suffix, content = IMAGES[image](seed)
        files[f"images/{name}{suffix}"] = content
        if (own := MASKS[mask]()) is not None:
            files[f"masks/{name}.png"] = own
        if has_twin:
            files[f"images/{name.upper()}.Png"] = content
        elif image in GOOD_IMAGES and mask in GOOD_MASKS:
            expected |= {f"images/{name}{suffix}", f"masks/{name}.png"}
    with TemporaryDirectory() as folder:
        root, out = Path(folder, "batch"), Path(folder, "out")
        _write(root, files)
        if not expected:
            with pytest.raises(UserError, match="leaves no image"):
                grow(root, out)
            return
        dataset, changes = grow(root, out)
        quarantined = set(quarantine(out))
        assert {one_line(name) for name in files} - quarantined == {one_line(name) for name in expected}
        assert quarantined < {one_line(name) for name in files}
        assert len(changes.new) == len(dataset.samples) == len(expected) / 2
        for sample in Dataset.load(out).samples:
            assert dataset.image(sample).shape[:2] == dataset.mask(sample).shape


IMAGE_NAMES = ("a.png", "b.png", 'q"\n.png', "free.png")
CLASS_OF = {"1": 1, "scratch": 1, "2": 2, "dent": 2}
GOOD_RUNS = {"1 3", "99 1"}
ROWS = st.lists(
    st.tuples(
        st.sampled_from([*IMAGE_NAMES[:3], "gone.png", ""]),
        st.sampled_from([*CLASS_OF, *CLASS_OF, "0", "x", ""]),
        st.sampled_from([*GOOD_RUNS, "", " ", "1 3 2", "0 1", "5 2 1 2", "9999 1", "1 x"]),
    )
    | st.just(("a.png",)),
    max_size=6,
)


@given(rows=ROWS)
@settings(max_examples=60, deadline=None)
def test_any_rows_leave_every_image_in_the_dataset_or_in_quarantine(rows: list[tuple[str, ...]]) -> None:
    bad, strays, held = set(), 0, set()
    for name, *cells in rows:
        label, runs = cells or ("", "")
        blank = label in CLASS_OF and not runs.strip()
        if name not in IMAGE_NAMES:
            strays += not blank
        elif not blank and (runs not in GOOD_RUNS or (name, CLASS_OF.get(label, 0)) in held or label not in CLASS_OF):
            bad.add(f"images/{one_line(name)}")
        elif not blank:
            held.add((name, CLASS_OF[label]))
    with TemporaryDirectory() as folder:
        root, out = Path(folder, "batch"), Path(folder, "out")
        _write(root, {f"images/{n}": encoded(texture(*SIZE, seed)) for seed, n in enumerate(IMAGE_NAMES)})
        with (root / "labels.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("ImageId", "ClassId", "EncodedPixels"), *rows])
        _, changes = grow(root, out)
        quarantined = set(quarantine(out))
        assert {name for name in quarantined if " row " not in name} == bad
        assert len(quarantined) == len(bad) + strays
        assert len(changes.new) == len(IMAGE_NAMES) - len(bad)
