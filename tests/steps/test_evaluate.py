"""`dbrnet evaluate`: the candidate, and the champion beside it, on real files."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest

from dbrnet.config import load_params
from dbrnet.data.dataset import Dataset, Image, Sample
from dbrnet.data.split import Split
from dbrnet.errors import UserError
from dbrnet.evaluation.metrics import confusion_matrix
from dbrnet.files import sha256_file
from dbrnet.inference.runtimes import open_model
from dbrnet.models.saved import save_model
from dbrnet.records import AuditRecord, Bootstrap, ChampionScores, EvaluationRecord, SplitCounts, TrainRecord
from dbrnet.steps.benchmark import benchmark
from dbrnet.steps.evaluate import evaluate
from dbrnet.steps.export import export
from dbrnet.steps.promote import promote
from tests.conftest import CLASSES, Exported
from tests.data.conftest import make_dataset
from tests.reports import examples
from tests.reports.examples import change
from tests.sections import PARAMS

ONE_EACH = PARAMS.evaluate.model_copy(update={"gallery": 1})
ASKED = load_params(Path(__file__).parents[2] / "params.yaml")
SPLITS = {"train": ("p0", "p1"), "val": ("p2",), "test": ("p3", "p4", "p5", "p6", "p7")}


@pytest.fixture(scope="module")
def folders(
    exported: Exported, make_image: Callable[..., Image], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """What the steps before evaluate wrote, but for the champion; truth is its answer, shifted."""
    root = tmp_path_factory.mktemp("steps")
    file, model, meta = exported
    names = ("dataset", "split", "train", "export")
    folders = {name: root / name for name in names}
    for folder in folders.values():
        folder.mkdir()
    dataset = _dataset(folders["dataset"], file, make_image)
    groups = {sample.id: sample.group for sample in dataset.samples}
    counts = {
        split_name: SplitCounts(images=len(ids), groups=len(ids), images_by_class={})
        for split_name, ids in SPLITS.items()
    }
    Split(
        kind="groups",
        seed=0,
        fractions=(0.2, 0.1, 0.7),
        ids=SPLITS,
        groups=groups,
        counts=counts,
        leaks="no",
        leak_rate={"val": 0.0, "test": 0.0},
        leak_note="",
        content_hash="ab",
    ).save(folders["split"])
    _audit().save(folders["split"])
    save_model(folders["train"] / "model.pt", model, meta)
    (folders["train"] / "history.csv").write_text("epoch,loss,val_miou,learning_rate\n1,0.5,0.4,0.1\n")
    table = sha256_file(folders["split"] / "split.csv")
    train = change(examples.train(), dataset__title="Tiny", dataset__content_hash="ab", split__sha256=table)
    train.save(folders["train"])
    shutil.copy(file, folders["export"] / "model.onnx")
    change(examples.export(("onnxruntime-cpu",)), model_sha256=sha256_file(file)).save(folders["export"])
    return folders


def _audit() -> AuditRecord:
    return AuditRecord(
        content_hash="ab",
        images=8,
        groups=8,
        groups_by_name=8,
        group_sizes={1: 8},
        links={},
        repeatability=None,
        leaking={"val": 0, "test": 0},
        splits={name: len(ids) for name, ids in SPLITS.items()},
        nn_baseline=examples.scores(miou=0.3),
        method="by hand",
        labelled_differently=0,
    )


def _dataset(root: Path, file: Path, make_image: Callable[..., Image]) -> Dataset:
    model = open_model(file)
    (root / "images").mkdir()
    (root / "masks").mkdir()
    samples = []
    for number in range(8):
        image = make_image(64, 96, number)
        truth = np.roll(model.predict(image[None])[0][0], 2, axis=1)
        name = f"p{number}"
        cv2.imwrite(str(root / f"images/{name}.png"), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        cv2.imwrite(str(root / f"masks/{name}.png"), truth)
        present = tuple(int(value) for value in np.unique(truth) if value)
        samples.append(
            Sample(name, f"images/{name}.png", f"masks/{name}.png", 64, 96, present, name, "0" * 64, "0" * 64)
        )
    card = replace(make_dataset(root, tuple(samples), ()).card, classes=CLASSES, content_hash="ab")
    dataset = Dataset(root, card, tuple(samples))
    dataset.save_tables()
    return dataset


def champion(folder: Path, model: Path | None, train: tuple[str, ...] | None = None) -> Path:
    """The folder that step champion writes; `train` are the images that it was trained on, where known."""
    folder.mkdir()
    record = examples.no_champion()
    if model:
        shutil.copy(model, folder / "model.onnx")
        record = change(record, version=3, sha256=sha256_file(model))
    if train is not None:
        rows = [f"{id_},{'train' if id_ in train else 'val'},g" for id_ in ("p0", "p3", "p4", "p5", "p9")]
        (folder / "split.csv").write_text("\n".join(["id,split,group", *rows, ""]))
    record.save(folder)
    return folder


def run(folders: dict[str, Path], baseline: Path, out: Path) -> EvaluationRecord:
    paths = [folders[name] for name in ("dataset", "split", "train", "export")]
    evaluate(ONE_EACH, *paths, baseline, out=out)  # type: ignore[misc]
    return EvaluationRecord.load(out)


def changed(model: Path, path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """An exported file as it is after `change`."""
    proto = onnx.load(model)
    change(proto)
    onnx.save(proto, path)
    return path


def other_weights(model: onnx.ModelProto) -> None:
    """Another last layer."""
    (last,) = (one for one in model.graph.initializer if one.name.endswith("head.body.4.weight"))
    weights = onnx.numpy_helper.to_array(last)
    noise = np.random.default_rng(0).normal(0, 0.3, weights.shape).astype(np.float32)
    last.CopyFrom(onnx.numpy_helper.from_array(weights + noise, last.name))


def other_classes(model: onnx.ModelProto) -> None:
    """The second and the third class swapped."""
    (classes,) = (entry for entry in model.metadata_props if entry.key == "classes")
    background, crack, pit, scratch = json.loads(classes.value)
    classes.value = json.dumps([background, pit, crack, scratch])


def test_both_are_scored_on_the_same_images(folders: dict[str, Path], exported: Exported, tmp_path: Path) -> None:
    model = changed(exported[0], tmp_path / "other.onnx", other_weights)
    record = run(folders, champion(tmp_path / "champion", model, ("p0", "p3", "p5", "p9")), tmp_path / "out")
    assert record.champion is not None
    assert (record.champion.version, record.champion.sha256) == (3, sha256_file(model))
    compared = record.compared
    assert compared is not None
    assert (compared.runtime, compared.seen) == ("onnxruntime-cpu", 0.4)
    expected = _miou_by_hand(folders["dataset"], model)
    assert compared.scores.miou == pytest.approx(expected)
    assert record.scores.miou > expected
    difference = compared.difference["miou"]
    assert difference.value == pytest.approx(record.scores.miou - expected)
    assert (difference.low or 0) <= (difference.value or 0) <= (difference.high or 0)
    assert (difference.unit, compared.difference["false_positives"].unit) == ("points", "difference")
    assert compared.figures.keys() == record.figures.keys() == compared.difference.keys()
    assert record.bootstrap == Bootstrap(resamples=10_000, confidence=0.95, groups=5, seed=0)
    changes = [image.change for image in record.disagreements]
    assert 0 < len(changes) <= 5
    assert changes == sorted(changes)
    for image in record.disagreements:
        assert all((tmp_path / "out" / path).is_file() for path in image.panels.values())
    with (tmp_path / "out/images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tallies = record.defects.by_class.values()
    assert sum(int(row["true_defects"]) for row in rows) == sum(tally.true for tally in tallies) > 5
    report = (tmp_path / "out/report.html").read_text()
    assert "Defects" in report
    assert "61 of 62 convolutions" in report
    assert "in higher precision: stem.weight" in report


def _miou_by_hand(root: Path, file: Path) -> float:
    dataset, model = Dataset.load(root), open_model(file)
    confusion = np.zeros((4, 4), np.int64)
    for id_ in SPLITS["test"]:
        sample = dataset.by_id[id_]
        confusion += confusion_matrix(model.predict(dataset.image(sample)[None])[0][0], dataset.mask(sample), 4)
    hits, total = confusion.diagonal(), confusion.sum(0) + confusion.sum(1) - confusion.diagonal()
    return float((hits[total > 0] / total[total > 0]).mean())


def test_a_champion_that_is_the_candidate_differs_in_nothing(
    folders: dict[str, Path], exported: Exported, tmp_path: Path
) -> None:
    record = run(folders, champion(tmp_path / "champion", exported[0]), tmp_path / "out")
    compared = record.compared
    assert compared is not None
    assert compared.seen is None
    assert compared.figures == record.figures
    assert compared.defects == record.defects
    ends = {end for figure in compared.difference.values() for end in (figure.value, figure.low, figure.high)}
    assert ends <= {0.0, None}
    assert record.disagreements == ()


def test_without_a_champion_there_is_no_comparison(folders: dict[str, Path], tmp_path: Path) -> None:
    record = run(folders, champion(tmp_path / "champion", None), tmp_path / "out")
    assert (record.champion, record.disagreements) == (None, ())
    assert record.figures["miou"].value == pytest.approx(record.scores.miou)
    assert (record.nn_miou, record.split, record.dataset.content_hash) == (
        0.3,
        TrainRecord.load(folders["train"]).split,
        "ab",
    )


def test_a_champion_of_other_classes_is_not_compared(
    folders: dict[str, Path], exported: Exported, tmp_path: Path
) -> None:
    model = changed(exported[0], tmp_path / "other.onnx", other_classes)
    record = run(folders, champion(tmp_path / "champion", model), tmp_path / "out")
    reason = "it knows the classes background, pit, crack, scratch, and the dataset has background, crack, pit, scratch"
    assert record.champion == ChampionScores(version=3, sha256=sha256_file(model), not_compared=reason)
    assert record.disagreements == ()


MEASURING: dict[str, tuple[Callable[..., None], Any, int, int]] = {  # its parameters, and how many folders
    "export": (export, ASKED.export, 3, 0),
    "evaluate": (evaluate, ONE_EACH, 4, 1),
    "benchmark": (benchmark, ASKED.benchmark, 4, 2),
    "promote": (promote, ASKED.promote, 4, 3),
}


@pytest.mark.parametrize("step", MEASURING)
def test_no_step_takes_another_split_or_dataset_than_the_training_s(
    folders: dict[str, Path], tmp_path: Path, step: str
) -> None:
    """Of which an image that was learned from may be in the test split."""
    measure, params, first, others = MEASURING[step]
    no_champion = champion(tmp_path / "champion", None)
    digest = sha256_file(folders["export"] / "model.onnx")
    change(examples.evaluation(), champion=None, model_sha256=digest).save(no_champion)
    change(examples.benchmark(), champion=None, model_sha256=digest).save(no_champion)
    split, dataset = tmp_path / "split", tmp_path / "dataset"
    moved = SPLITS | {"train": ("p3", "p1"), "test": ("p0", *SPLITS["test"][1:])}
    shutil.copytree(folders["split"], split)
    replace(Split.load(split), ids=moved).save(split)
    shutil.copytree(folders["dataset"], dataset)
    data = Dataset.load(dataset)
    replace(data, card=replace(data.card, content_hash="cd")).save_tables()
    for changed_data, message in (
        ((folders["dataset"], split), r"split\.csv \(SHA-256 \w+\) is not the split"),
        ((dataset, folders["split"]), r"dataset holds other images \(content cd\)"),
    ):
        words = [*changed_data, folders["train"], folders["export"]]
        with pytest.raises(UserError, match=message):
            measure(params, *words[:first], *[no_champion] * others, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_candidate_of_other_classes_is_refused(folders: dict[str, Path], exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    changed(exported[0], tmp_path / "export/model.onnx", other_classes)
    shutil.copy(folders["export"] / "export.json", tmp_path / "export")
    with pytest.raises(UserError, match=r"knows the classes background, pit, crack, scratch, and .*"):
        run(folders | {"export": tmp_path / "export"}, champion(tmp_path / "champion", None), tmp_path / "out")
