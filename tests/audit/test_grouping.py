"""Near-duplicates among small made-up images: which pairs are joined, and which are not."""

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbrnet.audit.fingerprint import take_fingerprints
from dbrnet.audit.grouping import Groups, Link, find_groups
from dbrnet.audit.matching import SYMMETRIES, Alignment, Symmetry
from dbrnet.audit.result import search
from dbrnet.data.dataset import Dataset, Image, decode_image
from tests.audit.conftest import Labelled, Make, exposed, steel


def laid(labelled: Labelled, symmetry: Symmetry) -> Labelled:
    image, mask = (np.ascontiguousarray(symmetry.apply(array)) for array in labelled)
    return image, mask


def members(groups: Groups) -> set[frozenset[str]]:
    ids: dict[str, set[str]] = {}
    for id_, group in groups.of.items():
        ids.setdefault(group, set()).add(id_)
    return set(map(frozenset, ids.values()))


def only_link(dataset: Dataset) -> tuple[Link, Alignment]:
    (link,) = search(dataset).groups.links
    assert link.alignment is not None
    return link, link.alignment


@pytest.mark.parametrize("symmetry", SYMMETRIES, ids=str)
def test_copy_is_found_in_every_symmetry(make: Make, symmetry: Symmetry) -> None:
    images = {f"p{seed}": steel(seed) for seed in range(12)}
    dataset = make(images | {"copy": laid(images["p3"], symmetry)})
    groups = search(dataset).groups
    singles = {frozenset({f"p{seed}"}) for seed in range(12) if seed != 3}
    assert members(groups) == {frozenset({"copy", "p3"})} | singles
    link, alignment = only_link(dataset)
    assert (link.first, link.second, link.evidence) == ("p3", "copy", "whole image")
    assert alignment.symmetry == symmetry.inverse
    relaid = alignment.lay(dataset.mask(dataset.by_id["copy"]), (120, 120))
    assert (relaid == dataset.mask(dataset.by_id["p3"])).mean() > 0.99


def recompressed(image: Image) -> Image:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1].tobytes()
    return decode_image(data, "copy.jpg")


@pytest.mark.parametrize(
    "change",
    [lambda image: exposed(image, 0.4, 5), lambda image: exposed(image, 1.7, -20), recompressed],
    ids=["darker", "overexposed", "recompressed"],
)
def test_light_and_compression_do_not_hide_a_copy(make: Make, change: Callable[[Image], Image]) -> None:
    images = {f"p{seed}": steel(seed) for seed in range(12)}
    image, mask = images["p5"]
    groups = search(make(images | {"copy": (change(image), mask)})).groups
    assert frozenset({"copy", "p5"}) in members(groups)
    assert groups.count == 12


def test_shifted_crop_is_found_and_aligned(make: Make) -> None:
    wide = {f"p{seed}": steel(seed, 150, 150) for seed in range(8)}
    images = {id_: (image[:130, :130], mask[:130, :130]) for id_, (image, mask) in wide.items()}
    image, mask = wide["p2"]
    link, alignment = only_link(make(images | {"copy": (image[4:132, 3:133], mask[4:132, 3:133])}))
    assert {link.first, link.second} == {"p2", "copy"}
    assert np.abs(np.subtract(alignment.shift, (4, 3))).max() <= 1


def test_copy_with_a_third_pasted_over_is_found(make: Make) -> None:
    images = {f"p{seed}": steel(seed) for seed in range(12)}
    image, mask = (array.copy() for array in images["p7"])
    image[:, 80:], mask[:, 80:] = steel(99)[0][:, 80:], steel(99)[1][:, 80:]
    link, _ = only_link(make(images | {"composite": (image, mask)}))
    assert {link.first, link.second} == {"p7", "composite"}
    assert link.evidence == "part of the image"


def test_plates_with_one_embossed_pattern_are_not_copies(make: Make) -> None:
    rows, columns = np.mgrid[:100, :500]
    pattern = 60 * (((rows + columns) % 40 < 8) | ((rows - columns) % 40 < 8))
    plates = {}
    for seed in range(6):
        grain = np.random.default_rng(seed).normal(scale=20, size=(100, 500))
        grey = np.clip(90 + np.roll(pattern, 7 * seed, axis=1) + grain, 0, 255).astype(np.uint8)
        plates[f"plate{seed}"] = np.repeat(grey[..., None], 3, axis=2), np.zeros((100, 500), np.uint8)
    assert search(make(plates)).groups.links == ()


def test_black_images_are_not_joined(make: Make) -> None:
    black = np.zeros((120, 120, 3), np.uint8), np.zeros((120, 120), np.uint8)
    assert search(make({f"p{index}": black for index in range(4)} | {"steel": steel(0)})).groups.links == ()


def test_names_and_content_join_one_group(make: Make) -> None:
    images = {f"p{seed}": steel(seed) for seed in range(8)}
    dataset = make(images | {"copy": laid(images["p1"], SYMMETRIES[2])})
    named = tuple(
        replace(sample, group="tile" if sample.id in {"p0", "p1"} else sample.id) for sample in dataset.samples
    )
    fingerprints = take_fingerprints(Dataset(dataset.root, dataset.card, named))
    groups = find_groups(fingerprints)
    assert frozenset({"p0", "p1", "copy"}) in members(groups)
    assert sorted(link.evidence for link in groups.links) == ["names", "whole image"]
    assert groups.of["copy"] == groups.of["p0"] == "copy"  # the first of its members' group names
    assert frozenset({"p0"}) in members(find_groups(fingerprints, names=False))


def test_names_join_whole_groups_of_copies(make: Make) -> None:
    images = {f"p{index}": steel(index % 2) for index in range(4)} | {f"p{seed}": steel(seed) for seed in range(4, 8)}
    dataset = make(images)  # p0 and p2 are copies, and p1 and p3
    named = tuple(
        replace(sample, group="tile" if sample.id in {"p2", "p3"} else sample.id) for sample in dataset.samples
    )
    groups = find_groups(take_fingerprints(Dataset(dataset.root, dataset.card, named)))
    assert frozenset({"p0", "p1", "p2", "p3"}) in members(groups)


@given(choice=st.lists(st.sampled_from(SYMMETRIES), min_size=9, max_size=9), order=st.permutations(range(9)))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_groups_do_not_depend_on_symmetry_or_order(make: Make, choice: list[Symmetry], order: list[int]) -> None:
    originals = [steel(index // 2) for index in range(9)]  # four pairs and a single one
    images = {f"p{index}": laid(originals[index], choice[index]) for index in order}
    pairs = {frozenset({f"p{2 * pair}", f"p{2 * pair + 1}"}) for pair in range(4)}
    assert members(search(make(images)).groups) == pairs | {frozenset({"p8"})}


def test_eight_symmetries_differ_and_each_has_an_inverse() -> None:
    array = np.arange(12).reshape(3, 4)
    laid = [np.ascontiguousarray(symmetry.apply(array)) for symmetry in SYMMETRIES]
    assert len({(image.shape, image.tobytes()) for image in laid}) == 8
    for symmetry, image in zip(SYMMETRIES, laid, strict=True):
        np.testing.assert_array_equal(symmetry.inverse.apply(image), array)


def test_symmetries_are_named() -> None:
    assert [str(symmetry) for symmetry in SYMMETRIES[:2]] == ["as it is", "turned 90°"]
    assert str(SYMMETRIES[6]) == "mirrored, turned 180°"
