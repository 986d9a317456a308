"""`dbrnet evaluate`: the candidate, and the champion beside it, on real files."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dbrnet.data.dataset import Dataset
from dbrnet.data.split import Split
from dbrnet.errors import UserError
from dbrnet.evaluation.metrics import confusion_matrix
from dbrnet.files import sha256_file
from dbrnet.inference.runtimes import open_model
from dbrnet.records import Bootstrap, ChampionScores, EvaluationRecord, TrainRecord
from dbrnet.steps.benchmark import benchmark
from dbrnet.steps.evaluate import evaluate
from dbrnet.steps.export import export
from dbrnet.steps.promote import promote
from tests.conftest import Exported
from tests.reports import examples
from tests.reports.examples import change
from tests.sections import PARAMS
from tests.steps.conftest import CONTENT, SPLITS, Folders, write_champion

ONE_EACH = PARAMS.evaluate.model_copy(update={"gallery": 1})


def run(folders: Folders, out: Path, champion: Path | None = None) -> EvaluationRecord:
    paths = [folders.dataset, folders.split, folders.trained, folders.exported, champion or folders.champion]
    evaluate(ONE_EACH, *paths, out=out)
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


def test_both_are_scored_on_the_same_images(folders: Folders, exported: Exported, tmp_path: Path) -> None:
    model = changed(exported[0], tmp_path / "other.onnx", other_weights)
    record = run(folders, tmp_path / "out", write_champion(tmp_path / "champion", model, ("p0", "p3", "p5", "p9")))
    assert record.champion is not None
    assert (record.champion.version, record.champion.sha256) == (3, sha256_file(model))
    compared = record.compared
    assert compared is not None
    assert (compared.runtime, compared.seen) == ("onnxruntime-cpu", 0.4)
    expected = _miou_by_hand(folders.dataset, model)
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
    folders: Folders, exported: Exported, tmp_path: Path
) -> None:
    record = run(folders, tmp_path / "out", write_champion(tmp_path / "champion", exported[0]))
    compared = record.compared
    assert compared is not None
    assert compared.seen is None
    assert compared.figures == record.figures
    assert compared.defects == record.defects
    ends = {end for figure in compared.difference.values() for end in (figure.value, figure.low, figure.high)}
    assert ends <= {0.0, None}
    assert record.disagreements == ()


def test_without_a_champion_there_is_no_comparison(folders: Folders, tmp_path: Path) -> None:
    record = run(folders, tmp_path / "out")
    assert (record.champion, record.disagreements) == (None, ())
    assert record.figures["miou"].value == pytest.approx(record.scores.miou)
    assert (record.nn_miou, record.split, record.dataset.content_hash) == (
        0.3,
        TrainRecord.load(folders.trained).split,
        CONTENT,
    )
    assert list(record.runtimes) == ["onnxruntime-cpu"]
    assert "built for the CPU only" in record.not_available["onnxruntime-cuda"]


def test_a_champion_of_other_classes_is_not_compared(folders: Folders, exported: Exported, tmp_path: Path) -> None:
    model = changed(exported[0], tmp_path / "other.onnx", other_classes)
    record = run(folders, tmp_path / "out", write_champion(tmp_path / "champion", model))
    reason = "it knows the classes background, pit, crack, scratch, and the dataset has background, crack, pit, scratch"
    assert record.champion == ChampionScores(version=3, sha256=sha256_file(model), not_compared=reason)
    assert record.disagreements == ()


STEPS: dict[str, tuple[Callable[..., None], Any, tuple[str, ...]]] = {  # its parameters, and the folders it reads
    "export": (export, PARAMS.export, ("trained",)),
    "evaluate": (evaluate, ONE_EACH, ("trained", "exported", "champion")),
    "benchmark": (benchmark, PARAMS.benchmark, ("trained", "exported", "champion", "evaluated")),
    "promote": (promote, PARAMS.promote, ("trained", "exported", "champion", "evaluated", "benchmarked")),
}


@pytest.mark.parametrize("step", STEPS)
def test_no_step_takes_another_split_or_dataset_than_the_training_s(
    folders: Folders, tmp_path: Path, step: str
) -> None:
    """Of which an image that was learned from may be in the test split."""
    measure, params, names = STEPS[step]
    digest = sha256_file(folders.exported / "model.onnx")
    change(examples.benchmark(), champion=None, model_sha256=digest).save(tmp_path / "benchmarked")
    read = [(vars(folders) | {"benchmarked": tmp_path / "benchmarked"})[name] for name in names]
    split, dataset = tmp_path / "split", tmp_path / "dataset"
    moved = SPLITS | {"train": ("p3", "p1"), "test": ("p0", *SPLITS["test"][1:])}
    shutil.copytree(folders.split, split)
    replace(Split.load(split), ids=moved).save(split)
    shutil.copytree(folders.dataset, dataset)
    data = Dataset.load(dataset)
    replace(data, card=replace(data.card, content_hash="cd")).save_tables()
    for changed_data, message in (
        ((folders.dataset, split), r"split\.csv \(SHA-256 \w+\) is not the split"),
        ((dataset, folders.split), r"dataset holds other images \(content cd\)"),
    ):
        with pytest.raises(UserError, match=message):
            measure(params, *changed_data, *read, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_candidate_of_other_classes_is_refused(folders: Folders, exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    changed(exported[0], tmp_path / "export/model.onnx", other_classes)
    shutil.copy(folders.exported / "export.json", tmp_path / "export")
    with pytest.raises(UserError, match=r"knows the classes background, pit, crack, scratch, and .*"):
        run(replace(folders, exported=tmp_path / "export"), tmp_path / "out")
