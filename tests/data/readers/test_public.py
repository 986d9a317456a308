"""The public datasets' readers, on small sources in their layouts and on the real archives."""

import csv
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from dbrnet.data.dataset import Dataset
from dbrnet.data.readers import find_layout, pair_by_stem
from dbrnet.data.readers.public import Severstal, find_tiles, git_blob
from dbrnet.errors import UserError
from tests.data.conftest import build

NEW, OLD = "ImageId,ClassId,EncodedPixels", "ImageId_ClassId,EncodedPixels"


def percent(dataset: Dataset) -> list[float]:
    return [round(100 * share, 3) for share in dataset.card.pixel_shares.values()]


# What readers share ---------------------------------------------------------------------------------------


def test_layout_is_found_below_wrapping_folders(tmp_path: Path) -> None:
    expected = tmp_path / "outer" / "NEU_Seg-main"
    for name in ("images", "annotations"):
        (expected / name).mkdir(parents=True)
    (tmp_path / "__MACOSX").mkdir()
    for start in (tmp_path, tmp_path / "outer", expected):
        assert find_layout(start, ("images", "annotations")) == expected
    with pytest.raises(UserError, match="no folder holds images and masks"):
        find_layout(tmp_path, ("images", "masks"))
    (tmp_path / "other" / "images").mkdir(parents=True)
    (tmp_path / "outer" / "images").mkdir()
    with pytest.raises(UserError, match="other and outer both look like the dataset"):
        find_layout(tmp_path, ("images",))


def test_images_and_masks_are_paired_by_name() -> None:
    folder = Path("top")
    images = [folder / "images/2.jpg", folder / "images/1.jpg"]
    masks = [folder / "masks/1.png", folder / "masks/2.png"]
    assert pair_by_stem(images, masks, folder) == [(images[1], masks[0]), (images[0], masks[1])]
    with pytest.raises(UserError, match=r"images/2\.jpg has no mask"):
        pair_by_stem(images, masks[:1], folder)
    with pytest.raises(UserError, match=r"masks/1\.png is a mask without an image"):
        pair_by_stem(images[:1], masks, folder)


# NEU-Seg --------------------------------------------------------------------------------------------------


def test_neu_segs_published_splits_are_read_as_one_set(neu_source: Path, tmp_path: Path) -> None:
    dataset = build("neu-seg", neu_source, tmp_path / "out")
    classes = {"test-000001": (1,), "test-000002": (2,)}
    classes |= {"training-000001": (1,), "training-000002": (2,), "training-000003": (3,)}
    assert {sample.id: sample.classes for sample in dataset.samples} == classes
    assert dataset.card.group_rule == ""
    assert all(sample.group == sample.id for sample in dataset.samples)
    assert "turned training images" in dataset.card.leak_note
    assert {name: len(ids) for name, ids in dataset.published_splits.items()} == {"train": 3, "test": 2}


@pytest.mark.parametrize("lost", ["images/test/000001.jpg", "annotations/training/000002.png"])
def test_image_or_mask_without_the_other_is_named(neu_source: Path, tmp_path: Path, lost: str) -> None:
    (neu_source / "NEU_Seg-main" / lost).unlink()
    with pytest.raises(UserError, match=r"(000001\.png is a mask without|000002\.jpg has no mask)"):
        build("neu-seg", neu_source, tmp_path / "out")


@pytest.mark.slow
def test_real_archive_of_neu_seg(archives: Path, tmp_path: Path) -> None:
    dataset = build("neu-seg", archives / "neu-seg.zip", tmp_path / "out")
    assert dataset.card.images == 4470
    by_class = {"background": 0, "inclusion": 1460 + 364, "patches": 1448 + 360, "scratches": 1429 + 353}
    assert dataset.card.images_by_class == by_class
    # The published shares of the two splits, weighted by their images, to the digits they have.
    published = ((87.94, 87.55), (2.14, 2.49), (7.36, 7.18))
    expected = [(3630 * training + 840 * test) / 4470 for training, test in published]
    assert percent(dataset)[:3] == pytest.approx(expected, abs=0.01)
    assert "3630 training and 840 test" in dataset.card.notes[0]


# MT -------------------------------------------------------------------------------------------------------


def test_tile_ends_where_exposures_start_again_or_numbers_jump() -> None:
    # In order of num, not of text: 90 comes before 100; a jump of 399 is none, one of 400 is.
    tiles = find_tiles(["exp1_num_90", "exp2_num_100", "exp4_num_499", "exp5_num_899", "exp5_num_900", "exp1_num_901"])
    assert list(tiles.items()) == [
        ("exp1_num_90", "000090"),
        ("exp2_num_100", "000090"),
        ("exp4_num_499", "000090"),
        ("exp5_num_899", "000899"),
        ("exp5_num_900", "000900"),
        ("exp1_num_901", "000901"),
    ]
    with pytest.raises(UserError, match="IMG_3: images are named"):
        find_tiles(["exp1_num_1", "IMG_3"])


def test_tiles_classes_come_from_folders_and_groups_from_names(tile_source: Path, tmp_path: Path) -> None:
    dataset = build("magnetic-tile", tile_source, tmp_path / "out")
    names = ("free", "blowhole", "break", "crack", "fray", "uneven")
    expected = {name: (label,) if label else () for label, name in enumerate(names)}
    assert {s.id.partition("-")[0]: s.classes for s in dataset.samples} == expected
    groups = Counter(s.group for s in dataset.samples)
    assert (groups["crack-001000"], groups["crack-001200"], dataset.card.groups) == (2, 1, 12)
    assert dataset.card.group_rule


def test_mask_threshold_is_applied_and_noted(tile_source: Path, tmp_path: Path) -> None:
    # A square of 100 pixels and an edge of 127, 128 and 10.
    for threshold, expected in ((127, 101), (126, 102), (0, 103), (128, 100)):
        dataset = build("magnetic-tile", tile_source, tmp_path / f"out{threshold}", threshold)
        assert (dataset.mask(dataset.by_id["break-exp1_num_1000"]) == 2).sum() == expected
        (note,) = dataset.card.notes
        assert f"exceeds {threshold}; 15 masks hold grey values between black and white, 45 pixels" in note


def copy_image(source: Path, class_name: str, other: str) -> None:
    """Copy the first image of a class, and its mask, over that of another class."""
    for suffix in ("jpg", "png"):
        name = f"Imgs/exp1_num_1000.{suffix}"
        content = (source / f"tiles-master/MT_{class_name}" / name).read_bytes()
        (source / f"tiles-master/MT_{other}" / name).write_bytes(content)


def test_empty_masks_of_defective_tiles_are_noted(tile_source: Path, tmp_path: Path) -> None:
    copy_image(tile_source, "Free", "Uneven")
    dataset = build("magnetic-tile", tile_source, tmp_path / "out")
    assert dataset.card.notes[1].endswith("are empty: uneven-exp1_num_1000")


def test_defect_in_a_free_tile_is_an_error(tile_source: Path, tmp_path: Path) -> None:
    copy_image(tile_source, "Crack", "Free")
    with pytest.raises(UserError, match=r"MT_Free/Imgs/exp1_num_1000\.png marks a defect"):
        build("magnetic-tile", tile_source, tmp_path / "out")


@pytest.mark.slow
def test_real_archive_of_magnetic_tile(archives: Path, tmp_path: Path) -> None:
    dataset = build("magnetic-tile", archives / "magnetic-tile.zip", tmp_path / "out")
    images = Counter(s.id.partition("-")[0] for s in dataset.samples)
    assert images == {"blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103, "free": 952}
    tiles = Counter(group.partition("-")[0] for group in {s.group for s in dataset.samples})
    assert tiles == {"blowhole": 22, "break": 16, "crack": 12, "fray": 7, "uneven": 17, "free": 172}
    assert dataset.card.groups == 246
    assert percent(dataset) == [97.521, 0.01, 0.204, 0.017, 0.491, 1.756]
    assert sum((dataset.mask(s) == 3).sum() for s in dataset.samples if 3 in s.classes) == 24742
    empty = "uneven-exp3_num_45042, uneven-exp4_num_124690, uneven-exp4_num_352527, uneven-exp4_num_45057"
    assert dataset.card.notes[1].endswith(empty)
    assert dataset.card.notes[2].count("uneven-") == 2


# Severstal ------------------------------------------------------------------------------------------------


def test_rows_become_masks_and_images_without_a_row_are_defect_free(severstal_source: Path, tmp_path: Path) -> None:
    dataset = build("severstal", severstal_source, tmp_path / "out")
    assert {s.id: s.classes for s in dataset.samples} == {"a": (1, 3), "b": (), "c": (4,), "d": ()}
    expected = np.zeros((64, 32), np.uint8)  # column-major, as the runs are
    expected.ravel()[0:2] = 1
    expected.ravel()[2:6] = 3  # pixel 3 is of classes 1 and 3: the higher wins
    expected.ravel()[99:109] = 1
    assert np.array_equal(dataset.mask(dataset.by_id["a"]), expected.T)
    assert dataset.mask(dataset.by_id["c"])[31, 63] == 4
    assert dataset.card.notes == (
        "where classes overlap the highest class id wins: 1 pixels in 1 images",
        "train.csv is not one of the whole set's two known files: a part or a changed copy",
    )
    assert dataset.card.images_by_class["background"] == 2


def test_old_form_gives_the_same_dataset(severstal_source: Path, tmp_path: Path) -> None:
    new = build("severstal", severstal_source, tmp_path / "new")
    with (severstal_source / "train.csv").open() as file:
        runs = {f"{row['ImageId']}_{row['ClassId']}": row["EncodedPixels"] for row in csv.DictReader(file)}
    keys = [f"{name}.jpg_{class_id}" for name in "abcd" for class_id in range(1, 5)]
    lines = [f"{key},{runs.get(key, '')}" for key in keys]
    (severstal_source / "train.csv").write_bytes("\r\n".join((OLD, *lines, "")).encode("utf-8-sig"))
    old = build("severstal", severstal_source, tmp_path / "old")
    assert (old.card, old.samples) == (new.card, new.samples)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("ImageId,EncodedPixels", "a.jpg,1 2"), "the columns are 'ImageId,EncodedPixels'"),
        (("",), "the columns are ''"),
        ((NEW, "a.jpg,1,1 2", "z.jpg,1,1 2"), "row 3: there is no train_images/z.jpg"),
        ((NEW, "../a.jpg,1,1 2"), "row 2: there is no train_images/../a.jpg"),
        ((NEW, "a.jpg,1,1 2", "a.jpg,5,1 2"), "row 3: class '5' is not one of 1, 2, 3, 4"),
        ((NEW, "a.jpg,0,1 2"), "row 2: class '0'"),
        ((NEW, "a.jpg,x,1 2"), "row 2: class 'x'"),
        ((OLD, "a.jpg,1 2"), "row 2: class 'a.jpg'"),
        ((NEW, "a.jpg,1"), "row 2: has 2 cells and not 3"),
        ((NEW, "a.jpg,1,1 2", "a.jpg,1,5 2"), "row 3: class 1 of a.jpg has a row already"),
        ((NEW, "a.jpg,1,1 2", "b.jpg,2,1 2 3"), "row 3 (b.jpg, class 2): 3 numbers are no pairs"),
        ((NEW, "a.jpg,1,2048 2"), "row 2 (a.jpg, class 1): run 1 ends at pixel 2049 of 2048"),
        ((NEW, 'a.jpg,1,"1 2'), "is not a readable csv"),
        ((NEW, "a.jpg,1," + "1 " * (1 << 23) + "1"), "is not a readable csv file (field larger than field limit"),
        ((NEW, "a.jpg,1," + "9" * 5000 + " 1"), "row 2 (a.jpg, class 1): run 1 starts at"),
        ((NEW, "a.jpg,1,1 2\0"), "row 2 (a.jpg, class 1): "),
        ((NEW, "a.jpg,1" + ",1 2" * 5000), "row 2: has 5002 cells and not 3"),
        ((NEW, '"a\n.jpg",1,1 2'), "there is no train_images/a\\n.jpg"),
        ((NEW, "é" * 100_000 + ",1,1 2"), "row 2: there is no train_images/é"),
        (("\udcff\udcfe",), "is not a readable csv"),
    ],
)
def test_wrong_row_is_named(severstal_source: Path, tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    (severstal_source / "train.csv").write_text("\n".join((*lines, "")), errors="surrogateescape")
    with pytest.raises(UserError) as caught:
        build("severstal", severstal_source, tmp_path / "out")
    assert message in str(caught.value)
    assert "train.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_whole_sets_table_is_recognised(
    severstal_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (severstal_source / "train.csv").write_bytes(f"{NEW}\n".encode())
    blob = "2764843b7cf02cd4e1f2a072b1a9555a45d38af5"  # from `git hash-object`
    assert git_blob(f"{NEW}\n".encode()) == blob
    assert sorted(Severstal.whole_tables.values()) == ["new form", "old form"]
    monkeypatch.setattr(Severstal, "whole_tables", {blob: "new form"})
    notes = build("severstal", severstal_source, tmp_path / "out").card.notes
    assert notes == ("train.csv is the whole set's (new form)",)  # no classes overlap here
    assert not build("steel-strip", severstal_source, tmp_path / "strip").card.notes


def test_steel_strip_groups_the_copies_of_a_strip(severstal_source: Path, tmp_path: Path) -> None:
    for old, new in (("a", "s00001_r0"), ("b", "s00001_r180"), ("c", "s00002_r0"), ("d", "s00003_fh")):
        (severstal_source / f"train_images/{old}.jpg").rename(severstal_source / f"train_images/{new}.jpg")
    (severstal_source / "train.csv").write_text(f"{NEW}\ns00001_r0.jpg,2,1 3\n")
    dataset = build("steel-strip", severstal_source, tmp_path / "out")
    assert [s.group for s in dataset.samples] == ["s00001", "s00001", "s00002", "s00003"]
    assert dataset.card.groups == 3
    assert [info.name for info in dataset.card.classes][1:] == ["scratch", "patch", "inclusion", "scale-pit"]


@pytest.mark.slow
def test_real_archive_of_severstal(archives: Path, tmp_path: Path) -> None:
    dataset = build("severstal", archives / "severstal-steel-defect-detection.zip", tmp_path / "out")
    counts = {"background": 105, "class-1": 34, "class-2": 26, "class-3": 87, "class-4": 25}
    assert dataset.card.images_by_class == counts
    assert percent(dataset)[1:] == [0.123, 0.089, 2.14, 0.952]
    assert sum(len(s.classes) == 2 for s in dataset.samples) == 13
    assert {(s.height, s.width) for s in dataset.samples} == {(256, 1600)}
