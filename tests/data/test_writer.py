import json
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbrnet.data.dataset import Dataset
from dbrnet.data.writer import build_dataset
from dbrnet.errors import UserError


def _build(source: Path, out: Path, name: str = "neu-seg") -> Dataset:
    out.mkdir()
    return build_dataset(name, source, out)


def _tree(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def _refused(source: Path, tmp_path: Path, *splits: str) -> None:
    with pytest.raises(UserError) as caught:
        _build(source, tmp_path / "out")
    message = str(caught.value)
    assert all(split_name in message for split_name in (source.name, *splits)), message
    assert "\n" not in message
    assert ".unpacked" not in message


def test_what_is_written_loads_again_and_is_right(neu_source: Path, tmp_path: Path) -> None:
    built = _build(neu_source, tmp_path / "out")
    loaded = Dataset.load(tmp_path / "out")
    assert loaded == built
    assert set(_tree(tmp_path / "out")) == {
        "card.json",
        "samples.csv",
        *(sample.image for sample in built.samples),
        *(sample.mask for sample in built.samples),
    }
    sample = built.by_id["training-000003"]
    source = neu_source / "NEU_Seg-main"
    assert (built.root / sample.image).read_bytes() == (source / "images/training/000003.jpg").read_bytes()
    mask = cv2.imread(str(source / "annotations/training/000003.png"), cv2.IMREAD_UNCHANGED)
    assert mask is not None
    assert np.array_equal(built.mask(sample), mask)
    assert (sample.height, sample.width) == built.image(sample).shape[:2] == (40, 50)
    assert [s.id for s in built.samples] == sorted(s.id for s in built.samples)
    assert built.card.images == 5
    assert built.card.images_by_class == {"background": 0, "inclusion": 2, "patches": 2, "scratches": 1}
    assert built.card.pixel_shares == pytest.approx(
        {"background": 0.95, "inclusion": 0.02, "patches": 0.02, "scratches": 0.01}
    )


def test_folder_and_archives_give_the_same_bytes(neu_source: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "neu.zip", "w") as archive:
        for path in sorted(neu_source.rglob("*"), reverse=True):
            archive.write(path, path.relative_to(neu_source))
    with tarfile.open(tmp_path / "neu.tar.gz", "w:gz") as tar:
        tar.add(neu_source / "NEU_Seg-main", ".")
    expected = _tree(_build(neu_source, tmp_path / "out").root)
    for number, name in enumerate(("source", "neu.zip", "neu.tar.gz", "source/NEU_Seg-main")):
        assert _tree(_build(tmp_path / name, tmp_path / f"out{number}").root) == expected
    assert str(tmp_path).encode() not in b"".join(expected.values())


def test_hashes_follow_pixels_and_not_files(neu_source: Path, tmp_path: Path) -> None:
    first = _build(neu_source, tmp_path / "first")
    mask = neu_source / "NEU_Seg-main/annotations/test/000001.png"
    pixels = cv2.imread(str(mask), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    before = mask.read_bytes()
    cv2.imwrite(str(mask), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert mask.read_bytes() != before
    assert _build(neu_source, tmp_path / "second").card == first.card
    pixels[0, 0] = 1
    cv2.imwrite(str(mask), pixels)
    third = _build(neu_source, tmp_path / "third")
    changed = [b.id for a, b in zip(first.samples, third.samples, strict=True) if a.sha256 != b.sha256]
    assert changed == ["test-000001"]
    assert third.card.content_hash != first.card.content_hash


def test_progress_sees_every_sample(neu_source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []

    def progress(items: Iterable[object], total: int, label: str) -> Iterator[object]:
        for done, item in enumerate(items, start=1):
            seen.append((done, total))
            yield item

    monkeypatch.setattr("dbrnet.data.writer.progress", progress)
    _build(neu_source, tmp_path / "out")
    assert seen == [(done, 5) for done in range(1, 6)]


def test_an_unknown_dataset_is_named_with_those_known(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown dataset 'neu'; known are steel-strip, neu-seg,"):
        _build(tmp_path, tmp_path / "out", "neu")


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    _refused(tmp_path / "nowhere.zip", tmp_path, "does not exist")


def test_a_corrupt_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "neu.zip").write_bytes(b"PK\x03\x04" + bytes(500))
    _refused(tmp_path / "neu.zip", tmp_path, "damaged")


def test_another_dataset_is_no_neu_seg(severstal_source: Path, tmp_path: Path) -> None:
    _refused(severstal_source, tmp_path, "no folder holds images and annotations")


def test_an_empty_dataset_is_an_error(neu_source: Path, tmp_path: Path) -> None:
    for path in neu_source.rglob("*"):
        if path.suffix in {".jpg", ".png"}:
            path.unlink()
    _refused(neu_source, tmp_path, "holds no images")


@pytest.mark.parametrize("name", ["images/training/000002.jpg", "annotations/training/000002.png"])
def test_a_truncated_file_is_named_also_inside_an_archive(neu_source: Path, tmp_path: Path, name: str) -> None:
    path = neu_source / "NEU_Seg-main" / name
    path.write_bytes(path.read_bytes()[:-20])
    _refused(neu_source, tmp_path, name, "cut short")
    archive = Path(shutil.make_archive(str(tmp_path / "neu"), "zip", neu_source))
    shutil.rmtree(tmp_path / "out")
    _refused(archive, tmp_path, name, "cut short")


def test_an_image_that_cannot_be_decoded_is_named(neu_source: Path, tmp_path: Path) -> None:
    path = neu_source / "NEU_Seg-main/images/training/000002.jpg"
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xda\x00\x02" + content[-2:])
    _refused(neu_source, tmp_path, "images/training/000002.jpg", "not a readable image")


@pytest.mark.parametrize(
    ("pixels", "complaint"),
    [
        (np.zeros((50, 40), np.uint8), "is 40 x 50 (height x width) and its mask 50 x 40"),
        (np.full((40, 50), 4, np.uint8), "its mask holds class id 4, and ids go to 3"),
        (np.zeros((40, 50, 3), np.uint8), "a mask must have one 8-bit channel"),
        (np.zeros((40, 50), np.uint16), "a mask must have one 8-bit channel"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(
    neu_source: Path, tmp_path: Path, pixels: np.ndarray, complaint: str
) -> None:
    cv2.imwrite(str(neu_source / "NEU_Seg-main/annotations/test/000001.png"), pixels)
    _refused(neu_source, tmp_path, "000001", complaint)


def test_two_images_of_one_name_are_an_error(neu_source: Path, tmp_path: Path) -> None:
    folder = neu_source / "NEU_Seg-main/images/test"
    shutil.copy(folder / "000001.jpg", folder / "000001.png")
    _refused(neu_source, tmp_path, "000001.png", "has no mask")


@pytest.mark.parametrize("name", ["000001\n", "000001\r", "\udcff"])
def test_a_name_that_does_not_print_is_refused(neu_source: Path, tmp_path: Path, name: str) -> None:
    for kind in ("images", "annotations"):
        (found,) = (neu_source / "NEU_Seg-main" / kind / "test").glob("000001.*")
        found.rename(found.with_stem(name))
    _refused(neu_source, tmp_path, "the name holds what does not print")


def test_names_that_differ_in_case_are_refused(neu_source: Path, tmp_path: Path) -> None:
    for kind in ("images", "annotations"):
        folder = neu_source / "NEU_Seg-main" / kind / "test"
        for number, name in (("000001", "a"), ("000002", "A")):
            (found,) = folder.glob(f"{number}.*")
            found.rename(found.with_stem(name))
    _refused(neu_source, tmp_path, "images/test/A.jpg and", "images/test/a.jpg have the same name")


def test_the_card_knows_where_it_came_from(severstal_source: Path, tmp_path: Path) -> None:
    _build(severstal_source, tmp_path / "out", "severstal")
    card = json.loads((tmp_path / "out/card.json").read_text())
    assert card["name"] == "severstal"
    assert card["licence"].startswith("owned by PAO Severstal")
    assert card["homepage"].startswith("https://")
    assert card["classes"][0] == {"name": "background", "color": [0, 0, 0]}
