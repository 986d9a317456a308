import csv
from pathlib import Path

import numpy as np
import pytest

from dbrnet.data.readers.public import Severstal, git_blob
from dbrnet.errors import UserError
from tests.data.conftest import build

NEW, OLD = "ImageId,ClassId,EncodedPixels", "ImageId_ClassId,EncodedPixels"


def test_rows_become_masks_and_images_without_a_row_are_defect_free(severstal_source: Path, tmp_path: Path) -> None:
    dataset = build("severstal", severstal_source, tmp_path / "out")
    assert {s.id: s.classes for s in dataset.samples} == {"a": (1, 3), "b": (), "c": (4,), "d": ()}
    mask = dataset.mask(dataset.by_id["a"])
    assert mask.shape == (32, 64)
    down = mask.T.ravel()
    expected = np.zeros(32 * 64, int)
    expected[0:2] = 1
    expected[2:6] = 3  # pixel 3 is of classes 1 and 3: the higher wins
    expected[99:109] = 1
    assert down.tolist() == expected.tolist()
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
    assert old.card == new.card
    assert old.samples == new.samples


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
        ((NEW, "a.jpg,1,9 2 1 2"), "row 2 (a.jpg, class 1): run 2 starts at 1, before run 1"),
        ((NEW, "a.jpg,1,1 5 4 2"), "row 2 (a.jpg, class 1): run 2 starts at 4 and overlaps run 1"),
        ((NEW, "a.jpg,1,2048 2"), "row 2 (a.jpg, class 1): run 1 ends at pixel 2049 of 2048"),
        ((NEW, "a.jpg,1,-4 2"), "row 2 (a.jpg, class 1): run 1 starts at -4"),
        ((NEW, 'a.jpg,1,"1 2'), "is not a readable csv"),
        ((NEW, "a.jpg,1," + "1 " * (1 << 23) + "1"), "is not a readable csv file (field larger than field limit"),
        ((NEW, "a.jpg,1," + "9" * 5000 + " 1"), "row 2 (a.jpg, class 1): run 1 starts at"),
        ((NEW, "a.jpg,1,1 2\0"), "row 2 (a.jpg, class 1): "),
        ((NEW, "a.jpg,1" + ",1 2" * 5000), "row 2: has 5002 cells and not 3"),
        ((NEW, '"a\n.jpg",1,1 2'), "there is no train_images/a\\n.jpg"),
        ((NEW, "é" * 100_000 + ",1,1 2"), "row 2: there is no train_images/é"),
    ],
)
def test_wrong_row_is_named(severstal_source: Path, tmp_path: Path, lines: tuple[str, ...], message: str) -> None:
    (severstal_source / "train.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError) as caught:
        build("severstal", severstal_source, tmp_path / "out")
    assert message in str(caught.value)
    assert "train.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_table_that_is_not_text_is_refused(severstal_source: Path, tmp_path: Path) -> None:
    (severstal_source / "train.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match=r"train\.csv is not a readable csv"):
        build("severstal", severstal_source, tmp_path / "out")


@pytest.mark.parametrize("form", ["new form", "old form"])
def test_whole_sets_table_is_recognised(
    severstal_source: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (severstal_source / "train.csv").write_bytes(b"ImageId,ClassId,EncodedPixels\n")
    blob = "2764843b7cf02cd4e1f2a072b1a9555a45d38af5"  # from `git hash-object`
    assert git_blob(b"ImageId,ClassId,EncodedPixels\n") == blob
    assert sorted(Severstal.whole_tables.values()) == ["new form", "old form"]
    monkeypatch.setattr(Severstal, "whole_tables", {blob: form})
    assert f"train.csv is the whole set's ({form})" in build("severstal", severstal_source, tmp_path / "out").card.notes
    assert len(build("steel-strip", severstal_source, tmp_path / "strip").card.notes) == 1


def test_steel_strip_groups_the_copies_of_a_strip(severstal_source: Path, tmp_path: Path) -> None:
    for old, new in (("a", "s00001_r0"), ("b", "s00001_r180"), ("c", "s00002_r0"), ("d", "s00003_fh")):
        (severstal_source / f"train_images/{old}.jpg").rename(severstal_source / f"train_images/{new}.jpg")
    (severstal_source / "train.csv").write_text(f"{NEW}\ns00001_r0.jpg,2,1 3\n")
    dataset = build("steel-strip", severstal_source, tmp_path / "out")
    assert [s.group for s in dataset.samples] == ["s00001", "s00001", "s00002", "s00003"]
    assert dataset.card.groups == 3
    assert [info.name for info in dataset.card.classes][1:] == ["scratch", "patch", "inclusion", "scale-pit"]


@pytest.mark.slow
def test_real_archive(archives: Path, tmp_path: Path) -> None:
    dataset = build("severstal", archives / "severstal-steel-defect-detection.zip", tmp_path / "out")
    counts = {"background": 105, "class-1": 34, "class-2": 26, "class-3": 87, "class-4": 25}
    assert dataset.card.images_by_class == counts
    shares = [round(100 * share, 3) for share in dataset.card.pixel_shares.values()]
    assert shares[1:] == [0.123, 0.089, 2.14, 0.952]
    assert sum(len(s.classes) == 2 for s in dataset.samples) == 13
    assert {(s.height, s.width) for s in dataset.samples} == {(256, 1600)}
