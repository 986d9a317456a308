import re
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from dbrnet.data.dataset import ClassInfo, Dataset, content_hash
from dbrnet.data.writer import count_classes
from dbrnet.errors import UserError
from tests.data.conftest import build, file_contents, make_neu_source, square

TOP = "NEU_Seg-main"


def assert_refused(source: Path, tmp_path: Path, *parts: str) -> None:
    with pytest.raises(UserError) as caught:
        build("neu-seg", source, tmp_path / "out")
    message = str(caught.value)
    assert all(part in message for part in (source.name, *parts)), message
    assert "\n" not in message
    assert ".unpacked" not in message


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, only to be read."""
    folder = tmp_path_factory.mktemp("written")
    return build("neu-seg", make_neu_source(folder), folder / "dataset").root


def test_written_dataset_loads_unchanged_and_is_right(neu_source: Path, tmp_path: Path) -> None:
    built = build("neu-seg", neu_source, tmp_path / "out")
    assert Dataset.load(tmp_path / "out") == built
    files = {file for sample in built.samples for file in (sample.image, sample.mask)}
    assert set(file_contents(tmp_path / "out")) == {"card.json", "samples.csv", *files}
    sample = built.by_id["training-000003"]
    assert (built.root / sample.image).read_bytes() == (neu_source / TOP / "images/training/000003.jpg").read_bytes()
    assert np.array_equal(built.mask(sample), square(40, 50, 3))
    assert (sample.height, sample.width) == built.image(sample).shape[:2] == (40, 50)
    assert [s.id for s in built.samples] == sorted(s.id for s in built.samples)
    assert (built.card.name, built.card.images) == ("neu-seg", 5)
    assert (built.card.homepage, built.card.licence) == ("https://github.com/DHW-Master/NEU_Seg", "none is stated")
    assert built.card.classes[0] == ClassInfo("background", (0, 0, 0))
    assert built.card.images_by_class == {"background": 0, "inclusion": 2, "patches": 2, "scratches": 1}
    assert built.card.pixel_shares == pytest.approx(
        {"background": 0.95, "inclusion": 0.02, "patches": 0.02, "scratches": 0.01}
    )


def test_folder_and_archives_give_the_same_bytes(neu_source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "neu.zip", "w") as archive:
        for path in sorted(neu_source.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(neu_source))
    with tarfile.open(tmp_path / "neu.tar.gz", "w:gz") as tar:
        tar.add(neu_source / TOP, ".")
    expected = file_contents(build("neu-seg", neu_source, tmp_path / "out").root)
    for number, name in enumerate(("source", "neu.zip", "neu.tar.gz", f"source/{TOP}")):
        assert file_contents(build("neu-seg", tmp_path / name, tmp_path / f"out{number}").root) == expected
    assert str(tmp_path).encode() not in b"".join(expected.values())


def test_hashes_depend_on_pixels_and_not_on_files(neu_source: Path, tmp_path: Path) -> None:
    first = build("neu-seg", neu_source, tmp_path / "first")
    mask, pixels = neu_source / TOP / "annotations/test/000001.png", square(40, 50, 1)
    before = mask.read_bytes()
    cv2.imwrite(str(mask), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert mask.read_bytes() != before
    assert build("neu-seg", neu_source, tmp_path / "second").card == first.card
    pixels[0, 0] = 1
    cv2.imwrite(str(mask), pixels)
    third = build("neu-seg", neu_source, tmp_path / "third")
    changed = [b.id for a, b in zip(first.samples, third.samples, strict=True) if a.sha256 != b.sha256]
    assert changed == ["test-000001"]
    assert third.card.content_hash != first.card.content_hash


def test_content_hash_depends_on_ids_groups_and_pixels_and_not_on_the_order(written: Path) -> None:
    first, *others = Dataset.load(written).samples
    same = content_hash([first, *others])
    assert content_hash([*others, first]) == same
    changed = [replace(first, id="new"), replace(first, group="new"), replace(first, sha256="new")]
    assert len({same, *(content_hash([sample, *others]) for sample in changed)}) == 4


def test_progress_counts_every_sample(neu_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def progress(items: Iterable[object], total: int, label: str) -> Iterator[object]:
        for done, item in enumerate(items, start=1):
            seen.append((done, total))
            yield item

    monkeypatch.setattr("dbrnet.data.writer.progress", progress)
    build("neu-seg", neu_source, tmp_path / "out")
    assert seen == [(done, 5) for done in range(1, 6)]


@pytest.mark.parametrize(
    ("name", "old", "new", "reason"),
    [
        ("samples.csv", r",\w+,train\n", ",,train\n", "2.image_sha256: String should have at least 1 character"),
        ("samples.csv", "image_sha256", "image_md5", "0.image_sha256: Field required"),
        ("samples.csv", ",40,50,", ",40,wide,", "0.width: Input should be a valid integer"),
        ("samples.csv", ",40,50,", ",40,", "0."),
        ("samples.csv", ",40,50,", ",40,50,60,", "0."),
        ("samples.csv", "training", "\udcff", "codec can't decode"),
        ("card.json", '"notes"', '"note"', "notes: Field required"),
        ("card.json", r"213,\s+94,", "213,", "classes.1.color.2: Field required"),
    ],
)
def test_tables_of_another_version_are_refused(
    written: Path, tmp_path: Path, name: str, old: str, new: str, reason: str
) -> None:
    shutil.copytree(written, tmp_path / "broken")
    table = tmp_path / "broken" / name
    text = re.sub(old, new, table.read_text(), count=3)
    assert text != table.read_text()
    table.write_text(text, errors="surrogateescape")
    with pytest.raises(UserError) as caught:
        Dataset.load(table.parent)
    message = str(caught.value)
    assert message.startswith(f"{table.parent} is not a dataset this version reads ({name}: ")
    assert reason in message
    assert message.endswith("; ingest it again")


def test_missing_tables_are_named(written: Path, tmp_path: Path) -> None:
    shutil.copy(written / "card.json", tmp_path)
    with pytest.raises(UserError, match=r"samples\.csv does not exist; run `dbrnet ingest` again"):
        Dataset.load(tmp_path)
    with pytest.raises(UserError, match=r"nowhere/card\.json does not exist"):
        Dataset.load(tmp_path / "nowhere")


def test_unknown_missing_damaged_and_other_sources_are_errors(severstal_source: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown dataset 'neu'; known are neu-seg, magnetic-tile,"):
        build("neu", tmp_path, tmp_path / "unknown")
    (tmp_path / "neu.zip").write_bytes(b"PK\x03\x04" + bytes(500))
    for source, message in (
        (tmp_path / "nowhere.zip", "does not exist"),
        (tmp_path / "neu.zip", "damaged"),
        (severstal_source, "no folder holds images and annotations"),
    ):
        assert_refused(source, tmp_path, message)
        shutil.rmtree(tmp_path / "out")


def test_empty_dataset_is_an_error(neu_source: Path, tmp_path: Path) -> None:
    for path in neu_source.rglob("*.*g"):
        path.unlink()
    assert_refused(neu_source, tmp_path, "holds no images")


@pytest.mark.parametrize("name", ["images/training/000002.jpg", "annotations/training/000002.png"])
def test_truncated_file_is_named_also_inside_an_archive(neu_source: Path, tmp_path: Path, name: str) -> None:
    path = neu_source / TOP / name
    path.write_bytes(path.read_bytes()[:-20])
    assert_refused(neu_source, tmp_path, name, "cut short")
    archive = Path(shutil.make_archive(str(tmp_path / "neu"), "zip", neu_source))
    shutil.rmtree(tmp_path / "out")
    assert_refused(archive, tmp_path, name, "cut short")


def test_undecodable_image_is_named(neu_source: Path, tmp_path: Path) -> None:
    path = neu_source / TOP / "images/training/000002.jpg"
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xda\x00\x02" + content[-2:])
    assert_refused(neu_source, tmp_path, "images/training/000002.jpg", "not a readable image")


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((50, 40), np.uint8), "is 40 x 50 (height x width) and its mask 50 x 40"),
        (np.full((40, 50), 4, np.uint8), "its mask holds class id 4, and ids go to 3"),
        (np.zeros((40, 50, 3), np.uint8), "a mask must have one 8-bit channel"),
        (np.zeros((40, 50), np.uint16), "a mask must have one 8-bit channel"),
    ],
)
def test_mask_that_does_not_fit_is_named(neu_source: Path, tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    cv2.imwrite(str(neu_source / TOP / "annotations/test/000001.png"), pixels)
    assert_refused(neu_source, tmp_path, "000001", message)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("000001\n", "2"), "the name holds what does not print"),
        (("000001\r", "2"), "the name holds what does not print"),
        (("\udcff", "2"), "the name holds what does not print"),
        (("a", "A"), "images/test/A.jpg and images/test/a.jpg have the same name"),
    ],
)
def test_names_that_no_system_keeps_apart_are_refused(
    neu_source: Path, tmp_path: Path, names: tuple[str, str], message: str
) -> None:
    for old, new in zip(("000001", "000002"), names, strict=True):
        for kind in ("images", "annotations"):
            (path,) = (neu_source / TOP / kind / "test").glob(f"{old}.*")
            path.rename(path.with_stem(new))
    assert_refused(neu_source, tmp_path, *message.split(" and "))


def test_two_images_of_one_name_are_an_error(neu_source: Path, tmp_path: Path) -> None:
    folder = neu_source / TOP / "images/test"
    shutil.copy(folder / "000001.jpg", folder / "000001.png")
    assert_refused(neu_source, tmp_path, "000001.png", "has no mask")


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 5)))
@settings(max_examples=100, deadline=None)
def test_class_counts_equal_bincount(mask: NDArray[np.uint8]) -> None:
    assert count_classes(mask, 6, "mask").tolist() == np.bincount(mask.ravel(), minlength=6).tolist()
    if mask.max() > 3:
        with pytest.raises(UserError, match=rf"mask: its mask holds class id {mask.max()}, and ids go to 3"):
            count_classes(mask, 4, "mask")
