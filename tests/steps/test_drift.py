"""`dbrnet drift`: yes or no, with the reasons, on real small datasets and on MT's exposures."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from dbrnet.cli import main
from dbrnet.config import DriftParams
from dbrnet.data.dataset import Dataset, Image, Sample, content_hash
from dbrnet.data.image_stats import write_image_stats
from dbrnet.data.synthetic import generate
from dbrnet.data.writer import build_dataset
from dbrnet.drift.checks import compare_classes, compare_values, exceeds, group_weights
from dbrnet.drift.new_samples import Images, find_new_samples
from dbrnet.evaluation.predictions import evaluate
from dbrnet.files import MARKER, sha256_file
from dbrnet.inference.export import PRODUCER, export_onnx
from dbrnet.inference.runtimes.registry import open_model
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta
from dbrnet.records import ChampionRecord, DriftCheck, DriftImages, DriftRecord
from dbrnet.steps.drift import drift
from tests.reports.examples import no_champion
from tests.sections import PARAMS

ROOT = Path(__file__).parents[2]
DEFAULTS = PARAMS.drift


@pytest.fixture(scope="module")
def strips(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """200 images of steel strip, ingested."""
    folder = tmp_path_factory.mktemp("strips")
    generate(folder / "source", images=200)
    return ingested("steel-strip", folder / "source", folder / "dataset")


def ingested(name: str, source: Path, out: Path) -> Dataset:
    out.mkdir()
    dataset = build_dataset(name, source, out)
    write_image_stats(dataset, {})
    return dataset


def green(image: Image) -> float:
    """The confidence of the tiny model below."""
    return float((image[..., 1] / np.float32(255)).mean())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported file that is as sure of a pixel as it is green."""
    sizes = ["N", "H", "W"]
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["image", "channel"], ["mask"], axis=3),
            helper.make_node("Cast", ["mask"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["float", "most"], ["confidence"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [*sizes, 3])],
        [
            helper.make_tensor_value_info("mask", TensorProto.UINT8, sizes),
            helper.make_tensor_value_info("confidence", TensorProto.FLOAT, sizes),
        ],
        [
            helper.make_tensor("channel", TensorProto.INT64, [], [1]),
            helper.make_tensor("most", TensorProto.FLOAT, [], [255]),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name=PRODUCER)
    helper.set_model_props(model, {"classes": "[]", "code_revision": "abc"})
    path = tmp_path_factory.mktemp("tiny") / "model.onnx"
    onnx.save_model(model, path)
    return path


def tiny_table(dataset: Dataset) -> str:
    """What evaluate says of the tiny model on every third image, but for the columns that drift ignores."""
    rows = [f"{one.id},{one.group},{green(dataset.image(one)):.6f}" for one in dataset.samples[::3]]
    return "\n".join(["id,group,confidence", *rows, ""])


def champion_of(dataset: Dataset, model: Path, table: str, folder: Path) -> Path:
    """The folder that step champion writes; of the dataset it holds the tables alone."""
    folder.mkdir()
    shutil.copy(model, folder / "model.onnx")
    for name in ("card.json", "samples.csv", "image_stats.csv"):
        shutil.copy(dataset.root / name, folder / name)
    (folder / "images.csv").write_text(table)
    ChampionRecord(model_name="strip", version=3, sha256=sha256_file(model), since=None, lineage=None).save(folder)
    return folder


@pytest.fixture(scope="module")
def champion(strips: Dataset, tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A champion that learned the strips."""
    return champion_of(strips, tiny, tiny_table(strips), tmp_path_factory.mktemp("registry") / "champion")


@pytest.fixture
def learned(tiny: Path, tmp_path: Path) -> Callable[[Dataset], Path]:
    """Makes a champion that learned another dataset, whose images are then deleted."""

    def make(dataset: Dataset) -> Path:
        write_image_stats(dataset, {})
        folder = champion_of(dataset, tiny, tiny_table(dataset), tmp_path / "champion")
        shutil.rmtree(dataset.root)
        return folder

    return make


def subset(dataset: Dataset, keep: Callable[[Sample], bool], root: Path) -> Dataset:
    """An ingested dataset with the kept images of another."""
    samples = tuple(sample for sample in dataset.samples if keep(sample))
    for sample in samples:
        for name in (sample.image, sample.mask):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(dataset.root / name, root / name)
    card = replace(dataset.card, images=len(samples), content_hash=content_hash(samples))
    made = Dataset(root, card, samples)
    made.save_tables()
    return made


def write_images(dataset: Dataset, folder: Path, change: Callable[[Image], Image] = lambda image: image) -> Path:
    """A plain folder of the dataset's images, each changed."""
    folder.mkdir()
    for sample in dataset.samples:
        bgr = cv2.cvtColor(change(dataset.image(sample)), cv2.COLOR_RGB2BGR)
        assert cv2.imwrite(str(folder / f"{sample.id}.png"), bgr)
    return folder


def answer(current: Path, champion: Path, out: Path, params: DriftParams = DEFAULTS) -> DriftRecord:
    drift(params, current, champion, out=out)
    record = DriftRecord.load(out)
    if record.checks:
        assert (out / "drift.png").read_bytes().startswith(b"\x89PNG")
    return record


def reasons(record: DriftRecord) -> set[str]:
    return {check.name for check in record.checks if check.warrants}


def counts(record: DriftRecord) -> DriftImages:
    assert record.images is not None
    return record.images


def check(record: DriftRecord, name: str) -> DriftCheck:
    return next(check for check in record.checks if check.name == name)


def test_the_same_data_warrant_nothing(strips: Dataset, champion: Path, tmp_path: Path) -> None:
    found = answer(strips.root, champion, tmp_path / "out")
    assert (found.answer, found.reasons) == ("no", ())
    assert found.images == DriftImages(
        reference=200, reference_groups=strips.card.groups, known=200, relabelled=0, new=0, new_groups=0
    )
    assert (found.reference_name, found.reference) == ("steel-strip", strips.card.content_hash)
    assert (found.model_name, found.model_version, found.model_metadata["code_revision"]) == ("strip", 3, "abc")


Learned = Callable[[Dataset], Path]


@pytest.mark.parametrize(("enough", "expected"), [(100, "yes"), (101, "no")])
def test_enough_new_labels_warrant_it(
    strips: Dataset, learned: Learned, tmp_path: Path, enough: int, expected: str
) -> None:
    old = set(strips.by_id) - set(sorted(strips.by_id)[::2])
    reference = subset(strips, lambda sample: sample.id in old, tmp_path / "reference")
    champion = learned(reference)
    found = answer(strips.root, champion, tmp_path / "out", DEFAULTS.model_copy(update={"min_new_images": enough}))
    assert found.answer == expected
    assert reasons(found) == ({"new labelled images"} if expected == "yes" else set())
    assert (counts(found).known, counts(found).new) == (100, 100)


def test_a_new_mask_on_a_known_image_is_a_new_label_and_no_new_image(
    strips: Dataset, champion: Path, tmp_path: Path
) -> None:
    first, *others = strips.samples
    changed = Dataset(strips.root, strips.card, (replace(first, id="renamed", sha256="other mask"), *others))
    current = subset(changed, lambda _: True, tmp_path / "current")
    found = answer(current.root, champion, tmp_path / "out", DEFAULTS.model_copy(update={"min_new_images": 1}))
    assert (counts(found).relabelled, counts(found).new) == (1, 0)
    assert reasons(found) == {"new labelled images"}


def test_another_balance_of_classes_is_named(strips: Dataset, learned: Learned, tmp_path: Path) -> None:
    champion = learned(subset(strips, lambda sample: 1 not in sample.classes, tmp_path / "reference"))
    found = answer(strips.root, champion, tmp_path / "out", DEFAULTS.model_copy(update={"min_new_images": 1000}))
    assert "class balance" in reasons(found)
    balance = check(found, "class balance")
    name = strips.card.classes[1].name
    assert f"most of all {name}, from 0.0% to" in balance.text
    assert isinstance(balance.before, dict)
    assert isinstance(balance.now, dict)
    assert balance.before[name] == 0 < 0.5 < balance.now[name]


def darker(image: Image) -> Image:
    return (image * 0.7).astype(np.uint8)


def blurred(image: Image) -> Image:
    return cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "expected"), [(darker, {"brightness", "contrast", "texture", "confidence"}), (blurred, {"texture"})]
)
def test_unlabelled_images_that_look_otherwise(
    strips: Dataset, champion: Path, tmp_path: Path, change: Callable[[Image], Image], expected: set[str]
) -> None:
    folder = write_images(strips, tmp_path / "line", change)
    found = answer(folder, champion, tmp_path / "out")
    assert found.answer == "yes"
    assert expected <= reasons(found) <= expected | {"direction"}
    assert (check(found, "new labelled images").figure, check(found, "class balance").figure) == (None, None)
    assert counts(found).relabelled is None
    assert any("label some of the new images first" in note for note in found.notes)


def test_known_images_in_a_plain_folder_are_known_and_broken_ones_listed(
    strips: Dataset, champion: Path, tmp_path: Path
) -> None:
    folder = write_images(strips, tmp_path / "line")
    (folder / "a cut.png").write_bytes((folder / f"{strips.samples[0].id}.png").read_bytes()[:-100])
    for copy in ("new.png", "new again.png"):  # one new image, saved twice
        assert cv2.imwrite(str(folder / copy), np.full((40, 90), 128, np.uint8))
    (folder / "a text.jpg").write_text("no image")
    assert cv2.imwrite(str(folder / "a tiny.png"), np.zeros((31, 90), np.uint8))
    (folder / "notes.txt").write_text("not looked at")
    found = answer(folder, champion, tmp_path / "out")
    assert found.answer == "no"
    assert (counts(found).known, counts(found).new) == (200, 1)
    assert [line[:9].strip(": i") for line in found.unusable] == ["a cut.png", "a text.jp", "a tiny.pn"]
    assert not any(str(tmp_path) in line for line in found.unusable)
    assert any(note.startswith("files left out: 3; a cut.png") for note in found.notes)


@pytest.fixture(scope="module")
def few(strips: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The first 40 strips: a network takes its time."""
    kept = {sample.id for sample in strips.samples[:40]}
    return subset(strips, lambda sample: sample.id in kept, tmp_path_factory.mktemp("few"))


@pytest.fixture(scope="module")
def network(few: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with lively weights that says it was trained on the few."""
    torch.manual_seed(0)
    model = DBRNet(len(few.card.classes)).eval()
    torch.nn.init.normal_(model.head.body[-1].weight, std=0.7)  # type: ignore[arg-type]
    meta = ModelMeta(
        classes=few.card.classes,
        mean=(0.5,) * 3,
        std=(0.1,) * 3,
        image_size=(64, 128),
        lfem=True,
        affm=True,
        dcppm=True,
        normalised=False,
    )
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    export_onnx(model, meta, path, metadata={"dataset_content_hash": few.card.content_hash})
    return path


@pytest.mark.slow
def test_the_networks_confidence_is_held_against_that_in_its_test_images(
    few: Dataset, network: Path, tmp_path: Path
) -> None:
    runtime = open_model(network)
    tested = few.samples[:25]
    table = evaluate(runtime.predict, few, [sample.id for sample in tested]).table()
    write_image_stats(few, {})
    folder = write_images(few, tmp_path / "line", darker)
    found = answer(folder, champion_of(few, network, table, tmp_path / "champion"), tmp_path / "out")
    confidence = check(found, "confidence")
    before = np.array([runtime.predict(few.image(sample)[None])[1].mean() for sample in tested])
    now = np.array([runtime.predict(darker(few.image(sample))[None])[1].mean() for sample in few.samples])
    assert confidence.before == pytest.approx(before @ group_weights([sample.group for sample in tested]))
    assert confidence.now == pytest.approx(now.mean())  # nothing is known of groups in a plain folder
    assert before.mean() != now.mean()
    assert found.model_metadata["dataset_content_hash"] == few.card.content_hash


@pytest.mark.slow
def test_the_network_sees_no_more_than_some_of_many_images(
    strips: Dataset, champion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbrnet.steps.drift.CONFIDENCE_IMAGES", 30)
    found = answer(write_images(strips, tmp_path / "line", darker), champion, tmp_path / "out")
    groups = {check.name: check.shift.groups for check in found.checks if check.shift}
    tested = {sample.group for sample in strips.samples[::3]}
    assert groups["confidence"] == (len(tested), 30)
    assert groups["brightness"] == (strips.card.groups, 200)


def test_what_is_known_is_not_opened(strips: Dataset, learned: Learned, tmp_path: Path) -> None:
    """The reference's images are gone; of the current ones those that the champion knows are cut short."""
    current = subset(strips, lambda _: True, tmp_path / "current")
    old = {sample.id for sample in strips.samples[:150]}
    champion = learned(subset(strips, lambda sample: sample.id in old, tmp_path / "reference"))
    for id_ in old:
        (current.root / current.by_id[id_].image).write_bytes(b"")
    found = answer(current.root, champion, tmp_path / "out", DEFAULTS.model_copy(update={"min_new_images": 51}))
    assert (found.answer, counts(found).known, counts(found).new) == ("no", 150, 50)


def test_the_current_datasets_own_table_is_believed(strips: Dataset, learned: Learned, tmp_path: Path) -> None:
    current = subset(strips, lambda _: True, tmp_path / "current")
    old = {sample.id for sample in strips.samples[:100]}
    champion = learned(subset(strips, lambda sample: sample.id in old, tmp_path / "reference"))
    rows = (strips.root / "image_stats.csv").read_text().splitlines()
    changed = [",".join([row.split(",")[0], "7.25", *row.split(",")[2:]]) for row in rows[1:]]
    (current.root / "image_stats.csv").write_text("\n".join([rows[0], *changed, ""]))
    found = answer(current.root, champion, tmp_path / "out", DEFAULTS.model_copy(update={"min_new_images": 1000}))
    assert (check(found, "brightness").now, reasons(found)) == (pytest.approx(7.25), {"brightness"})


def test_without_a_champion_the_first_is_to_be_trained(strips: Dataset, tmp_path: Path) -> None:
    (tmp_path / "champion").mkdir()
    no_champion().save(tmp_path / "champion")
    found = answer(strips.root, tmp_path / "champion", tmp_path / "out")
    assert (found.answer, found.reasons) == ("yes", ("there is no champion yet",))
    assert (found.checks, found.images, found.model_version) == ((), None, None)
    assert not (tmp_path / "out/drift.png").exists()


@pytest.mark.parametrize("missing", ["card.json", "samples.csv", "image_stats.csv", "images.csv"])
def test_a_champion_from_before_there_were_tables_is_to_be_replaced(
    strips: Dataset, champion: Path, tmp_path: Path, missing: str
) -> None:
    old = shutil.copytree(champion, tmp_path / "old")
    (old / missing).unlink()
    found = answer(strips.root, old, tmp_path / "out")
    assert (found.answer, len(found.reasons)) == ("yes", 1)
    assert f"version 3, was registered without {missing}" in found.reasons[0]


def test_other_classes_are_a_reason(strips: Dataset, champion: Path, tmp_path: Path) -> None:
    current = subset(strips, lambda sample: sample.id == strips.samples[0].id, tmp_path / "current").root
    card = current / "card.json"
    card.write_text(card.read_text().replace('"scratch"', '"groove"'))
    found = answer(current, champion, tmp_path / "out")
    assert found.answer == "yes"
    assert "and the dataset has background, groove" in found.reasons[0]
    assert "version 3, knows the classes background, scratch" in found.reasons[0]


@pytest.mark.slow
def test_run_again_it_writes_the_same_bytes(strips: Dataset, champion: Path, tmp_path: Path) -> None:
    folder = write_images(strips, tmp_path / "line", darker)
    written = []
    for _ in range(2):
        answer(folder, champion, tmp_path / "out")
        written.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    assert written[0] == written[1]
    assert written[0].keys() == {MARKER, "drift.json", "drift.png"}


def empty(folder: Path) -> None:
    folder.joinpath("card.json").unlink()
    folder.joinpath("readme.txt").write_text("no images")


def only_broken(folder: Path) -> None:
    folder.joinpath("card.json").unlink()
    folder.joinpath("a.jpg").write_text("no image")


def gone(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def lose_an_image(folder: Path) -> None:
    table = folder / "samples.csv"  # its first image becomes a new one, whose file is gone
    table.write_text(re.sub(r"[0-9a-f]{64}", "0" * 64, table.read_text(), count=2))
    min((folder / "images").iterdir()).unlink()


def spoil_its_table(folder: Path) -> None:
    table = folder / "samples.csv"
    table.write_text(re.sub(r"[0-9a-f]{64}", "0" * 64, table.read_text(), count=2))
    folder.joinpath("image_stats.csv").write_text("id,brightness\n0,1\n")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (empty, "holds neither card.json nor images"),
        (only_broken, "none of its 1 images is usable; a.jpg"),
        (gone, "current does not exist"),
        (lose_an_image, "cannot be read"),
        (spoil_its_table, "image_stats.csv does not fit its dataset"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_status_2(
    strips: Dataset,
    champion: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    expected: str,
) -> None:
    few = {sample.id for sample in strips.samples[:3]}
    current = subset(strips, lambda sample: sample.id in few, tmp_path / "current").root
    spoil(current)
    words = ["drift", str(current), str(champion), "--out", str(tmp_path / "out")]
    assert main([*words, "--params", str(ROOT / "params.yaml")]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert expected in lines[0]
    assert not (tmp_path / "out").exists()


def test_either_answer_is_status_0(
    strips: Dataset, champion: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_images(strips, tmp_path / "line", darker)
    for current, expected in ((strips.root, "no"), (folder, "yes")):
        words = ["drift", str(current), str(champion), "--out", str(tmp_path / "out")]
        assert main([*words, "--params", str(ROOT / "params.yaml")]) == 0
        assert f"is retraining warranted? {expected}" in caplog.text


def shifts(images: Images, first: np.ndarray, classes: int) -> dict[str, bool]:
    """What is found to differ between the images of `first` (a mask) and the others."""
    one, other = (images.take(np.flatnonzero(side).tolist()) for side in (first, ~first))
    assert one.labels is not None
    assert other.labels is not None
    balance = compare_classes(one.labels, one.groups, other.labels, other.groups, classes=classes)
    features = (
        compare_values(before, one.groups, after, other.groups, comparisons=5)
        for before, after in zip(one.features.T, other.features.T, strict=True)
    )
    return {
        "classes": exceeds(balance, DEFAULTS.max_class_shift),
        "image": any(exceeds(shift, DEFAULTS.max_image_drift) for shift in features),
    }


def halves(images: Images, seed: int, *, whole_groups: bool) -> np.ndarray:
    """A random half of the images, or the images of a random half of the groups."""
    rng = np.random.default_rng(seed)
    names = np.array(images.groups if whole_groups else [str(path) for path in images.paths])
    units = np.unique(names)
    return np.isin(names, rng.permutation(units)[: len(units) // 2])


@pytest.mark.parametrize("whole_groups", [True, False])
def test_reshuffled_halves_are_no_drift(strips: Dataset, whole_groups: bool) -> None:
    images = find_new_samples(strips, strips).reference
    for seed in range(20):
        half = halves(images, seed, whole_groups=whole_groups)
        assert not any(shifts(images, half, len(strips.card.classes)).values()), seed


@pytest.mark.slow
def test_exposures_are_drift_and_reshuffled_halves_are_none(archives: Path, tmp_path: Path) -> None:
    tiles = ingested("magnetic-tile", archives / "magnetic-tile.zip", tmp_path / "dataset")
    images = find_new_samples(tiles, tiles).reference
    classes = len(tiles.card.classes)
    exposures = np.array([int(sample.id.partition("exp")[2][0]) for sample in tiles.samples])
    for dark, bright in ((1, 6), (1, 2), (5, 6)):
        one_of_two = images.take(np.flatnonzero(np.isin(exposures, (dark, bright))).tolist())
        found = shifts(one_of_two, exposures[np.isin(exposures, (dark, bright))] == dark, classes)
        assert found == {"classes": False, "image": True}, (dark, bright)
    for seed in range(20):
        for whole_groups in (True, False):
            half = halves(images, seed, whole_groups=whole_groups)
            assert shifts(images, half, classes) == {"classes": False, "image": False}, seed
