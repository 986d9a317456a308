from collections import Counter
from pathlib import Path

import pytest

from dbrnet.data.readers.public import find_tiles
from dbrnet.errors import UserError
from tests.data.conftest import build

NAME = "magnetic-tile"


def test_tile_ends_where_exposures_start_again_or_numbers_jump() -> None:
    # In order of num, not of text: 90 comes before 100; a jump of 399 is none, one of 400 is.
    tiles = find_tiles(["exp1_num_90", "exp2_num_100", "exp4_num_499", "exp5_num_899", "exp5_num_900", "exp1_num_901"])
    assert tiles == {
        "exp1_num_90": "000090",
        "exp2_num_100": "000090",
        "exp4_num_499": "000090",
        "exp5_num_899": "000899",
        "exp5_num_900": "000900",
        "exp1_num_901": "000901",
    }


def test_unknown_file_name_is_an_error() -> None:
    with pytest.raises(UserError, match="IMG_3: images are named"):
        find_tiles(["exp1_num_1", "IMG_3"])


def test_classes_come_from_folders_and_groups_from_names(tile_source: Path, tmp_path: Path) -> None:
    dataset = build(NAME, tile_source, tmp_path / "out")
    assert {s.id.partition("-")[0]: s.classes for s in dataset.samples} == {
        "blowhole": (1,),
        "break": (2,),
        "crack": (3,),
        "fray": (4,),
        "uneven": (5,),
        "free": (),
    }
    groups = Counter(s.group for s in dataset.samples)
    assert groups["crack-001000"] == 2
    assert groups["crack-001200"] == 1
    assert dataset.card.groups == 12
    assert dataset.card.group_rule


def test_mask_threshold_is_applied_and_noted(tile_source: Path, tmp_path: Path) -> None:
    # A square of 100 pixels and an edge of 127, 128 and 10.
    for threshold, expected in ((127, 101), (126, 102), (0, 103), (128, 100)):
        dataset = build(NAME, tile_source, tmp_path / f"out{threshold}", threshold)
        assert (dataset.mask(dataset.by_id["break-exp1_num_1000"]) == 2).sum() == expected
        assert str(threshold) in dataset.card.notes[0]
        assert "15 masks hold grey values between black and white, 45 pixels" in dataset.card.notes[0]


def copy_image(source: Path, class_name: str, other: str) -> None:
    """Copy the first image of a class, and its mask, over that of another class."""
    for suffix in ("jpg", "png"):
        name = f"Imgs/exp1_num_1000.{suffix}"
        content = (source / f"tiles-master/MT_{class_name}" / name).read_bytes()
        (source / f"tiles-master/MT_{other}" / name).write_bytes(content)


def test_empty_masks_of_defective_images_are_noted(tile_source: Path, tmp_path: Path) -> None:
    dataset = build(NAME, tile_source, tmp_path / "out", 254)
    assert len(dataset.card.notes) == 1
    copy_image(tile_source, "Free", "Uneven")
    dataset = build(NAME, tile_source, tmp_path / "again")
    assert dataset.card.notes[1].endswith("are empty: uneven-exp1_num_1000")


def test_defect_in_a_free_image_is_an_error(tile_source: Path, tmp_path: Path) -> None:
    copy_image(tile_source, "Crack", "Free")
    with pytest.raises(UserError, match=r"MT_Free/Imgs/exp1_num_1000\.png marks a defect"):
        build(NAME, tile_source, tmp_path / "out")


@pytest.mark.slow
def test_real_archive(archives: Path, tmp_path: Path) -> None:
    dataset = build(NAME, archives / "magnetic-tile.zip", tmp_path / "out")
    card = dataset.card
    images = Counter(s.id.partition("-")[0] for s in dataset.samples)
    assert images == {"blowhole": 115, "break": 85, "crack": 57, "fray": 32, "uneven": 103, "free": 952}
    assert card.groups == 246
    tiles = Counter(group.partition("-")[0] for group in {s.group for s in dataset.samples})
    assert tiles == {"blowhole": 22, "break": 16, "crack": 12, "fray": 7, "uneven": 17, "free": 172}
    shares = {name: round(100 * share, 3) for name, share in card.pixel_shares.items()}
    assert shares == {
        "background": 97.521,
        "blowhole": 0.01,
        "break": 0.204,
        "crack": 0.017,
        "fray": 0.491,
        "uneven": 1.756,
    }
    assert sum((dataset.mask(s) == 3).sum() for s in dataset.samples if 3 in s.classes) == 24742
    assert card.notes[1].endswith(
        "uneven-exp3_num_45042, uneven-exp4_num_124690, uneven-exp4_num_352527, uneven-exp4_num_45057"
    )
    assert card.notes[2].count("uneven-") == 2
