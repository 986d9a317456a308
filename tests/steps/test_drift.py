"""`dbrnet drift`: yes or no, with the reasons, on real small datasets and on MT's exposures."""

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbrnet.cli import main
from dbrnet.data.dataset import Dataset, Image
from dbrnet.data.image_stats import write_image_stats
from dbrnet.drift.checks import group_weights
from dbrnet.evaluation.predictions import evaluate
from dbrnet.files import MARKER, sha256_file
from dbrnet.inference.runtimes import open_model
from dbrnet.records import ChampionRecord, DriftCheck, DriftImages, DriftRecord
from dbrnet.steps.drift import drift
from tests.conftest import Exported
from tests.drift.conftest import green, subset, write_images
from tests.reports.examples import no_champion
from tests.sections import PARAMS

ROOT = Path(__file__).parents[2]
DEFAULTS = PARAMS.drift


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


def darker(image: Image) -> Image:
    return (image * 0.7).astype(np.uint8)


def blurred(image: Image) -> Image:
    return cv2.GaussianBlur(image, (0, 0), 1.5).astype(np.uint8)


@pytest.fixture(scope="module")
def dark_line(strips: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All images in a plain folder, darker."""
    return write_images(strips, tmp_path_factory.mktemp("line") / "dark", darker)


def answer(current: Path, champion: Path, out: Path, **changes: object) -> DriftRecord:
    """The step's record, with the defaults of params.yaml but for the changes."""
    drift(DEFAULTS.model_copy(update=changes), current, champion, out=out)
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
    new = set(sorted(strips.by_id)[::2])
    champion = learned(subset(strips, lambda sample: sample.id not in new, tmp_path / "reference"))
    found = answer(strips.root, champion, tmp_path / "out", min_new_images=enough)
    assert found.answer == expected
    assert reasons(found) == ({"new labelled images"} if expected == "yes" else set())
    assert (counts(found).known, counts(found).new) == (100, 100)


def test_a_new_mask_on_a_known_image_is_a_new_label_and_no_new_image(
    strips: Dataset, champion: Path, tmp_path: Path
) -> None:
    first, *others = strips.samples
    changed = Dataset(strips.root, strips.card, (replace(first, id="renamed", sha256="other mask"), *others))
    current = subset(changed, lambda _: True, tmp_path / "current")
    found = answer(current.root, champion, tmp_path / "out", min_new_images=1)
    assert (counts(found).relabelled, counts(found).new) == (1, 0)
    assert reasons(found) == {"new labelled images"}


def test_another_balance_of_classes_is_named(strips: Dataset, learned: Learned, tmp_path: Path) -> None:
    champion = learned(subset(strips, lambda sample: 1 not in sample.classes, tmp_path / "reference"))
    found = answer(strips.root, champion, tmp_path / "out", min_new_images=1000)
    assert "class balance" in reasons(found)
    balance = check(found, "class balance")
    name = strips.card.classes[1].name
    assert f"most of all {name}, from 0.0% to" in balance.text
    assert isinstance(balance.before, dict)
    assert isinstance(balance.now, dict)
    assert balance.before[name] == 0 < 0.5 < balance.now[name]


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


@pytest.mark.slow
def test_the_networks_confidence_is_held_against_that_in_its_test_images(
    strips: Dataset, exported_with_all: Exported, tmp_path: Path
) -> None:
    file, *_ = exported_with_all
    first = {sample.id for sample in strips.samples[:40]}  # a network takes its time
    few = subset(strips, lambda sample: sample.id in first, tmp_path / "few")
    runtime, tested = open_model(file), few.samples[:25]
    table = evaluate(runtime.predict, few, [sample.id for sample in tested]).table()
    write_image_stats(few, {})
    folder = write_images(few, tmp_path / "line", darker)
    found = answer(folder, champion_of(few, file, table, tmp_path / "champion"), tmp_path / "out")
    confidence = check(found, "confidence")
    before = np.array([runtime.predict(few.image(sample)[None])[1].mean() for sample in tested])
    now = np.array([runtime.predict(darker(few.image(sample))[None])[1].mean() for sample in few.samples])
    assert confidence.before == pytest.approx(before @ group_weights([sample.group for sample in tested]))
    assert confidence.now == pytest.approx(now.mean())  # nothing is known of groups in a plain folder
    assert before.mean() != now.mean()
    assert found.model_metadata["dataset_content_hash"] == "4d5e"


@pytest.mark.slow
def test_the_network_sees_no_more_than_some_of_many_images(
    strips: Dataset, champion: Path, dark_line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbrnet.steps.drift.CONFIDENCE_IMAGES", 30)
    found = answer(dark_line, champion, tmp_path / "out")
    groups = {check.name: check.shift.groups for check in found.checks if check.shift}
    tested = {sample.group for sample in strips.samples[::3]}
    assert groups["confidence"] == (len(tested), 30)
    assert groups["brightness"] == (strips.card.groups, 200)


def test_of_known_images_nothing_is_opened_and_of_new_ones_the_table_is_believed(
    strips: Dataset, learned: Learned, tmp_path: Path
) -> None:
    """The reference's images are gone; of the current ones those that the champion knows are cut short."""
    current = subset(strips, lambda _: True, tmp_path / "current")
    old = {sample.id for sample in strips.samples[:150]}
    champion = learned(subset(strips, lambda sample: sample.id in old, tmp_path / "reference"))
    for id_ in old:
        (current.root / current.by_id[id_].image).write_bytes(b"")
    found = answer(current.root, champion, tmp_path / "out", min_new_images=51)
    assert (found.answer, counts(found).known, counts(found).new) == ("no", 150, 50)
    header, *rows = (strips.root / "image_stats.csv").read_text().splitlines()
    changed = [",".join([row.split(",")[0], "7.25", *row.split(",")[2:]]) for row in rows]
    (current.root / "image_stats.csv").write_text("\n".join([header, *changed, ""]))
    found = answer(current.root, champion, tmp_path / "out", min_new_images=1000)
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
def test_run_again_it_writes_the_same_bytes(champion: Path, dark_line: Path, tmp_path: Path) -> None:
    written = []
    for _ in range(2):
        answer(dark_line, champion, tmp_path / "out")
        written.append({path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()})
    assert written[0] == written[1]
    assert written[0].keys() == {MARKER, "drift.json", "drift.png"}


def make_first_image_new(folder: Path) -> None:
    table = folder / "samples.csv"
    table.write_text(re.sub(r"[0-9a-f]{64}", "0" * 64, table.read_text(), count=2))


def replace_card(folder: Path, name: str) -> None:
    (folder / "card.json").unlink()
    (folder / name).write_text("no image")


def lose_an_image(folder: Path) -> None:
    make_first_image_new(folder)
    min((folder / "images").iterdir()).unlink()


def spoil_its_table(folder: Path) -> None:
    make_first_image_new(folder)
    (folder / "image_stats.csv").write_text("id,brightness\n0,1\n")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda folder: replace_card(folder, "readme.txt"), "holds neither card.json nor images"),
        (lambda folder: replace_card(folder, "a.jpg"), "none of its 1 images is usable; a.jpg"),
        (lambda folder: folder.rename(folder.with_name("elsewhere")), "current does not exist"),
        (lose_an_image, "cannot be read"),
        (spoil_its_table, "image_stats.csv does not fit its dataset"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line_and_status_2(
    strips: Dataset,
    champion: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], object],
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
    strips: Dataset, champion: Path, dark_line: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for current, expected in ((strips.root, "no"), (dark_line, "yes")):
        words = ["drift", str(current), str(champion), "--out", str(tmp_path / "out")]
        assert main([*words, "--params", str(ROOT / "params.yaml")]) == 0
        assert f"is retraining warranted? {expected}" in caplog.text
