"""The factory's reader: which files it pairs and which it rejects, by their names."""

from pathlib import Path

import numpy as np
import pytest

from dbrnet.data.readers.factory import Listing, dataset_info, identify, is_named, list_source
from dbrnet.errors import UserError
from tests.data.conftest import square, texture, write_image

CLASSES = ("scratch", "deep_dent")


def rejected(listing: Listing) -> dict[str, str]:
    return {item.file: item.reason for item in listing.rejected}


def ids(listing: Listing) -> list[str]:
    return [sample.id for sample in listing.samples]


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    """Three images of 30 x 40 without labels yet."""
    root = tmp_path / "batch"
    for number, name in enumerate(("a.png", "b.jpg", "c.bmp")):
        write_image(root / "images" / name, texture(30, 40, number))
    return root


def test_masks_of_class_ids(batch: Path) -> None:
    for name in "abc":
        write_image(batch / f"masks/{name}.png", square(30, 40, 2))
    listing = list_source(batch, CLASSES)
    assert ids(listing) == ["a", "b", "c"]
    assert not listing.rejected
    assert (listing.samples[1].read_mask(30, 40).ids == 2).sum() == 100


def test_folder_for_each_class_and_the_highest_id_wins(batch: Path) -> None:
    write_image(batch / "masks/scratch/a.png", square(30, 40, 255))
    write_image(batch / "masks/deep_dent/a.png", square(30, 40, 1, side=4))
    write_image(batch / "masks/deep_dent/b.png", square(30, 40, 0))
    listing = list_source(batch, CLASSES)
    assert ids(listing) == ["a", "b"]
    mask = listing.samples[0].read_mask(30, 40)
    assert np.bincount(mask.ids.ravel()).tolist() == [1100, 84, 16]
    assert mask.overlap == 16
    assert rejected(listing) == {"images/c.bmp": "has no mask; a defect-free image needs an empty one"}


@pytest.mark.parametrize(
    "table",
    [
        "ImageId,ClassId,EncodedPixels\na.png,1,1 3\na.png,2,3 2\n",
        "ImageId,ClassId,EncodedPixels\na.png,deep_dent,3 2\na.png,scratch,1 3\nb.jpg,scratch,\n",
        "ImageId_ClassId,EncodedPixels\na.png_scratch,1 3\na.png_deep_dent,3 2\nb.jpg_deep_dent,\n",
    ],
)
def test_csv_of_either_form_with_numbers_or_names(batch: Path, table: str) -> None:
    (batch / "labels.csv").write_text(table)
    listing = list_source(batch, CLASSES)
    assert ids(listing) == ["a", "b", "c"]
    assert not listing.rejected
    mask = listing.samples[0].read_mask(30, 40)
    assert mask.ids.T.ravel()[:5].tolist() == [1, 1, 2, 2, 0]
    assert mask.overlap == 1
    assert not listing.samples[1].read_mask(30, 40).ids.any()


def test_class_name_that_ends_like_another_is_not_confused(batch: Path) -> None:
    (batch / "labels.csv").write_text("ImageId_ClassId,EncodedPixels\na.png_deep_dent,1 1\n")
    listing = list_source(batch, ("dent", "deep_dent"))
    assert listing.samples[0].read_mask(30, 40).ids[0, 0] == 2


def test_bad_rows_reject_their_image_and_name_the_row(batch: Path) -> None:
    rows = ("a.png,3,1 2", "z.png,1,1 2", "z.png,2,1 2", "b.jpg,1,1 2", "b.jpg,scratch,5 2", "c.bmp,1", "", "x")
    (batch / "labels.csv").write_text("\n".join(("ImageId,ClassId,EncodedPixels", *rows)) + "\n")
    listing = list_source(batch, CLASSES)
    assert not listing.samples
    assert rejected(listing) == {
        "images/a.png": "labels.csv row 2: class '3' is not one of 1, scratch, 2, deep_dent",
        "labels.csv row 3": "there is no images/z.png",
        "labels.csv row 4": "there is no images/z.png",
        "images/b.jpg": "labels.csv row 6: class scratch has a row already",
        "images/c.bmp": "labels.csv row 7: has 2 cells and not 3",
        "labels.csv row 9": "has 1 cells and not 3",
    }
    assert sum(item.counts for item in listing.rejected) == 5  # z.png is lost once


def test_names_that_differ_only_in_case_or_suffix_are_rejected(batch: Path) -> None:
    for name in ("a", "A", "b", "c"):
        write_image(batch / f"masks/{name}.png", square(30, 40, 1))
    write_image(batch / "images/A.png", texture(30, 40, 9))
    write_image(batch / "images/b.png", texture(30, 40, 8))
    listing = list_source(batch, CLASSES)
    assert ids(listing) == ["c"]
    assert {"images/a.png", "images/A.png", "masks/a.png", "masks/A.png"} < set(rejected(listing))
    assert rejected(listing)["images/b.png"].startswith("images/b.jpg and images/b.png have one name")
    assert sum(item.counts for item in listing.rejected) == 2


def test_every_other_file_is_listed(batch: Path) -> None:
    for name in "abc":
        write_image(batch / f"masks/{name}.png", square(30, 40, 1))
    for name in ("README.md", "images/.DS_Store", "images/sub/d.png", "__MACOSX/images/._a.png", "Thumbs.db"):
        (batch / name).parent.mkdir(parents=True, exist_ok=True)
        (batch / name).write_bytes(b"")
    write_image(batch / "masks/z.png", square(30, 40, 1))
    (batch / "images/gone.png").symlink_to("nowhere")
    listing = list_source(batch, CLASSES)
    assert {item.file: item.counts for item in listing.rejected} == {
        "README.md": False,
        "Thumbs.db": False,
        "images/.DS_Store": False,
        "__MACOSX/images/._a.png": False,
        "images/sub/d.png": True,
        "images/gone.png": True,
        "masks/z.png": True,
    }


def test_folders_may_be_links(batch: Path, tmp_path: Path) -> None:
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/images").symlink_to(batch / "images")
    (tmp_path / "linked/labels.csv").write_text("ImageId,ClassId,EncodedPixels\n")
    (batch / "images/loop").symlink_to(batch)
    assert ids(list_source(tmp_path / "linked", CLASSES)) == ["a", "b", "c"]


def test_accent_of_two_characters_equals_that_of_one(batch: Path) -> None:
    (batch / "images/a.png").rename(batch / "images/Prüfung u\u0308 1.png")
    write_image(batch / "masks/Prüfung ü 1.png", square(30, 40, 1))
    assert ids(list_source(batch, CLASSES)) == ["Prüfung_ü_1"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "has images/ but no labels"),
        (("masks/a.png", "labels.csv"), "has masks/a.png and labels.csv; give the labels in one form"),
        (("one.csv", "two.csv"), "has one.csv and two.csv; give"),
        (
            ("masks/a.png", "masks/scratch/a.png"),
            "has masks/a.png and masks/scratch/a.png; give the labels in one form",
        ),
        (("masks/dnet/a.png",), "masks/dnet is no class; ingest.classes in params.yaml has scratch, deep_dent"),
        (("labels.csv",), "the columns are ''"),
    ],
)
def test_unclear_layout_is_an_error(batch: Path, files: tuple[str, ...], message: str) -> None:
    for name in files:
        (batch / name).parent.mkdir(parents=True, exist_ok=True)
        (batch / name).write_bytes(b"")
    with pytest.raises(UserError) as caught:
        list_source(batch, CLASSES)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ("line3.cam-1_07", "line3.cam-1_07"),
        ("a b\n\"c'", "a_b_c_"),
        ("../../x", ".._.._x"),
        ("e\u0301", "é"),
        ("\udcff", "_"),
        ("ü" * 99, "ü" * 50),
    ],
)
def test_ids_are_safe_file_names(stem: str, expected: str) -> None:
    assert identify(stem) == expected


def test_withdrawn_names_are_ids_or_files(batch: Path) -> None:
    (batch / "labels.csv").write_text("ImageId,ClassId,EncodedPixels\n")
    (batch / "withdrawn.txt").write_text("# no longer wanted\na b.tif\n\nline3.cam1\n")
    names = frozenset(list_source(batch, CLASSES).withdrawn)
    assert names == {"a b.tif", "line3.cam1"}
    assert is_named(names, "a_b", "a_b.png")
    assert is_named(names, "line3.cam1", "line3.cam1.jpg")
    assert not is_named(names, "c", "c.bmp")


def test_colors_are_distinct_and_the_background_is_first() -> None:
    infos = dataset_info([f"c{number}" for number in range(21)]).classes
    assert infos[0].name == "background"
    assert len({info.color for info in infos}) == 22
