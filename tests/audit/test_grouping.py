from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbrnet.audit.fingerprint import take_fingerprints
from dbrnet.audit.grouping import Groups, find_groups
from dbrnet.audit.result import search
from dbrnet.audit.symmetry import SYMMETRIES, Symmetry
from dbrnet.data.dataset import Dataset, Image, decode_image
from tests.audit.conftest import Labelled, Make, exposed, steel


def laid(labelled: Labelled, symmetry: Symmetry) -> Labelled:
    image, mask = (np.ascontiguousarray(symmetry.apply(array)) for array in labelled)
    return image, mask


def together(groups: Groups) -> set[frozenset[str]]:
    members: dict[str, set[str]] = {}
    for id_, group in groups.of.items():
        members.setdefault(group, set()).add(id_)
    return {frozenset(ids) for ids in members.values()}


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=str)
def test_a_copy_is_found_however_it_lies(make: Make, symmetry: Symmetry) -> None:
    images = {f"p{seed}": steel(seed) for seed in range(12)}
    dataset = make(images | {"copy": laid(images["p3"], symmetry)})
    _, groups = search(dataset)
    assert together(groups) == {frozenset({"copy", "p3"})} | {
        frozenset({f"p{seed}"}) for seed in range(12) if seed != 3
    }
    (link,) = groups.links
    assert (link.first, link.second, link.evidence) == ("p3", "copy", "whole image")
    assert link.alignment is not None
    assert link.alignment.symmetry == symmetry.inverse
    relaid = link.alignment.lay(dataset.mask(dataset.by_id["copy"]), (120, 120))
    assert (relaid == dataset.mask(dataset.by_id["p3"])).mean() > 0.99


def darker(image: Image) -> Image:
    return exposed(image, 0.4, 5)


def recompressed(image: Image) -> Image:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1].tobytes()
    return decode_image(data, "copy.jpg")


def blown_out(image: Image) -> Image:
    return exposed(image, 1.7, -20)


@pytest.mark.parametrize("change", [darker, blown_out, recompressed])
def test_light_and_compression_do_not_hide_a_copy(make: Make, change: object) -> None:
    images = {f"p{seed}": steel(seed) for seed in range(12)}
    image, mask = images["p5"]
    assert callable(change)
    _, groups = search(make(images | {"copy": (change(image), mask)}))
    assert frozenset({"copy", "p5"}) in together(groups)
    assert groups.count == 12


def test_a_shifted_crop_is_found_and_laid_where_it_belongs(make: Make) -> None:
    wide = {f"p{seed}": steel(seed, 150, 150) for seed in range(8)}
    images = {id_: (image[:130, :130], mask[:130, :130]) for id_, (image, mask) in wide.items()}
    image, mask = wide["p2"]
    dataset = make(images | {"copy": (image[4:132, 3:133], mask[4:132, 3:133])})
    _, groups = search(dataset)
    (link,) = groups.links
    assert {link.first, link.second} == {"p2", "copy"}
    assert link.alignment is not None
    assert np.abs(np.subtract(link.alignment.shift, (4, 3))).max() <= 1


def test_a_defect_pasted_over_a_third_does_not_hide_a_copy(make: Make) -> None:
    images = {f"p{seed}": steel(seed) for seed in range(12)}
    image, mask = (array.copy() for array in images["p7"])
    image[:, 80:], mask[:, 80:] = steel(99)[0][:, 80:], steel(99)[1][:, 80:]
    _, groups = search(make(images | {"composite": (image, mask)}))
    (link,) = groups.links
    assert {link.first, link.second} == {"p7", "composite"}
    assert link.evidence == "part of the image"


def test_plates_with_one_embossed_pattern_are_not_copies(make: Make) -> None:
    rows, columns = np.mgrid[:100, :500]
    pattern = 60 * (((rows + columns) % 40 < 8) | ((rows - columns) % 40 < 8))
    plates = {}
    for seed in range(6):
        grain = np.random.default_rng(seed).normal(scale=20, size=(100, 500))
        shift = 7 * seed
        grey = np.clip(90 + np.roll(pattern, shift, axis=1) + grain, 0, 255).astype(np.uint8)
        plates[f"plate{seed}"] = np.repeat(grey[..., None], 3, axis=2), np.zeros((100, 500), np.uint8)
    _, groups = search(make(plates))
    assert groups.links == ()


def test_black_images_are_like_nothing(make: Make) -> None:
    black = np.zeros((120, 120, 3), np.uint8), np.zeros((120, 120), np.uint8)
    _, groups = search(make({f"p{index}": black for index in range(4)} | {"steel": steel(0)}))
    assert groups.links == ()


def test_names_and_content_join_one_group(make: Make) -> None:
    images = {f"p{seed}": steel(seed) for seed in range(8)}
    dataset = make(images | {"copy": laid(images["p1"], SYMMETRIES[2])})
    named = tuple(replace(one, group="tile" if one.id in {"p0", "p1"} else one.id) for one in dataset.samples)
    fingerprints = take_fingerprints(Dataset(dataset.root, dataset.card, named))
    groups = find_groups(fingerprints)
    assert frozenset({"p0", "p1", "copy"}) in together(groups)
    assert sorted(link.evidence for link in groups.links) == ["names", "whole image"]
    assert groups.of["copy"] == groups.of["p0"] == "copy"  # named by the first of its members' names
    assert frozenset({"p0"}) in together(find_groups(fingerprints, names=False))


@given(choice=st.lists(st.sampled_from(SYMMETRIES), min_size=9, max_size=9), order=st.permutations(range(9)))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_groups_do_not_depend_on_how_images_lie_or_are_ordered(
    make: Make, choice: list[Symmetry], order: list[int]
) -> None:
    things = [steel(index // 2) for index in range(9)]  # two of each of four, one of the fifth
    images = {f"p{index}": laid(things[index], choice[index]) for index in order}
    _, groups = search(make(images))
    assert together(groups) == {
        *(frozenset({f"p{2 * thing}", f"p{2 * thing + 1}"}) for thing in range(4)),
        frozenset({"p8"}),
    }
