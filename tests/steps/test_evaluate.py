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
from dbrnet.data.dataset import Card, Dataset, Image, Sample
from dbrnet.data.split import Split, SplitCounts
from dbrnet.errors import UserError
from dbrnet.evaluation.metrics import confusion_matrix
from dbrnet.files import sha256_file, write_json
from dbrnet.inference.runtimes.registry import open_model
from dbrnet.models.saved import save_model
from dbrnet.steps.benchmark import benchmark
from dbrnet.steps.evaluate import evaluate
from dbrnet.steps.export import export
from dbrnet.steps.promote import promote
from tests.conftest import CLASSES, Exported
from tests.sections import PARAMS

ONE_EACH = PARAMS.evaluate.model_copy(update={"gallery": 1})
ASKED = load_params(Path(__file__).parents[2] / "params.yaml")
ORIGIN = {"hardware": {"cpu": "x", "cores": 2, "gpus": []}, "versions": {}, "code_revision": None}
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
    counts = {split_name: SplitCounts(len(ids), len(ids), {}) for split_name, ids in SPLITS.items()}
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
    write_json(folders["split"] / "audit.json", {"nn_baseline": {"miou": 0.3}})
    save_model(folders["train"] / "model.pt", model, meta)
    (folders["train"] / "history.csv").write_text("epoch,loss,val_miou,learning_rate\n1,0.5,0.4,0.1\n")
    training = {"params": {"seed": 0, "epochs": 1}, "best_epoch": 1, "seconds": 60, "device": "cpu"}
    divided = {"kind": "groups", "seed": 0, "sha256": sha256_file(folders["split"] / "split.csv")}
    about = {"dataset": {"title": "Tiny", "content_hash": "ab"}, "split": divided}
    write_json(folders["train"] / "train.json", {**about, "provenance": ORIGIN, "training": training})
    shutil.copy(file, folders["export"] / "model.onnx")
    int8 = {"kept": ["stem.weight"], "convolutions": 62, "loss": 0.0008, "max_loss": 0.005}
    info = {"runtimes": ["onnxruntime-cpu"], "model_sha256": sha256_file(file), "int8": int8}
    write_json(folders["export"] / "export.json", info)
    return folders


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
        samples.append(Sample(name, f"images/{name}.png", f"masks/{name}.png", 64, 96, present, name, "0" * 64))
    about = ("tiny", "Tiny", CLASSES, "", "", "", "", "")
    card = Card(*about, notes=(), images=8, groups=8, images_by_class={}, pixel_shares={}, content_hash="ab")
    dataset = Dataset(root, card, tuple(samples))
    dataset.save_tables()
    return dataset


def champion(folder: Path, model: Path | None, train: tuple[str, ...] | None = None) -> Path:
    """The folder that step champion writes; `train` are the images that it was trained on, where known."""
    folder.mkdir()
    facts: dict[str, object] = {"model_name": "m", "version": None, "sha256": None, "since": None, "lineage": None}
    if model:
        shutil.copy(model, folder / "model.onnx")
        facts |= {"version": 3, "sha256": sha256_file(model)}
    if train is not None:
        rows = [f"{id_},{'train' if id_ in train else 'val'},g" for id_ in ("p0", "p3", "p4", "p5", "p9")]
        (folder / "split.csv").write_text("\n".join(["id,split,group", *rows, ""]))
    write_json(folder / "champion.json", facts)
    return folder


def run(folders: dict[str, Path], baseline: Path, out: Path) -> dict[str, Any]:
    paths = [folders[name] for name in ("dataset", "split", "train", "export")]
    evaluate(ONE_EACH, *paths, baseline, out=out)  # type: ignore[misc]
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


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
    metrics = run(folders, champion(tmp_path / "champion", model, ("p0", "p3", "p5", "p9")), tmp_path / "out")
    holder = metrics["champion"]
    assert (holder["version"], holder["sha256"]) == (3, sha256_file(model))
    assert (holder["runtime"], holder["seen"]) == ("onnxruntime-cpu", 0.4)
    expected = _miou_by_hand(folders["dataset"], model)
    assert holder["scores"]["miou"] == pytest.approx(expected)
    assert metrics["scores"]["miou"] > expected
    difference = holder["difference"]["miou"]
    assert difference["value"] == pytest.approx(metrics["scores"]["miou"] - expected)
    assert difference["low"] <= difference["value"] <= difference["high"]
    assert holder["figures"].keys() == metrics["figures"].keys() == holder["difference"].keys()
    assert metrics["bootstrap"] == {"resamples": 10_000, "confidence": 0.95, "groups": 5, "seed": 0}
    changes = [one["change"] for one in metrics["disagreements"]]
    assert 0 < len(changes) <= 5
    assert changes == sorted(changes)
    for one in metrics["disagreements"]:
        assert all((tmp_path / "out" / path).is_file() for path in one["panels"].values())
    with (tmp_path / "out/images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    counts = metrics["defects"]["by_class"].values()
    assert sum(int(row["true_defects"]) for row in rows) == sum(one["true"] for one in counts) > 5
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
    metrics = run(folders, champion(tmp_path / "champion", exported[0]), tmp_path / "out")
    holder = metrics["champion"]
    assert holder["seen"] is None
    assert holder["figures"] == metrics["figures"]
    assert holder["defects"] == metrics["defects"]
    assert {value for one in holder["difference"].values() for value in one.values()} <= {0.0, None}
    assert metrics["disagreements"] == []


def test_without_a_champion_there_is_no_comparison(folders: dict[str, Path], tmp_path: Path) -> None:
    metrics = run(folders, champion(tmp_path / "champion", None), tmp_path / "out")
    assert (metrics["champion"], metrics["disagreements"]) == (None, [])
    assert metrics["figures"]["miou"]["value"] == pytest.approx(metrics["scores"]["miou"])


def test_a_champion_of_other_classes_is_not_compared(
    folders: dict[str, Path], exported: Exported, tmp_path: Path
) -> None:
    model = changed(exported[0], tmp_path / "other.onnx", other_classes)
    metrics = run(folders, champion(tmp_path / "champion", model), tmp_path / "out")
    assert metrics["champion"] == {
        "version": 3,
        "sha256": sha256_file(model),
        "not_compared": "it knows the classes background, pit, crack, scratch, and the dataset has "
        "background, crack, pit, scratch",
    }
    assert metrics["disagreements"] == []


MEASURING: dict[str, tuple[Callable[..., None], Any, int, int]] = {  # its parameters, and how many folders
    "export": (export, ASKED.export, 3, 0),
    "evaluate": (evaluate, PARAMS, 4, 1),
    "benchmark": (benchmark, ASKED.benchmark, 4, 2),
    "promote": (promote, ASKED.promote, 4, 3),
}


@pytest.mark.parametrize("step", MEASURING)
def test_no_step_takes_another_split_or_dataset_than_the_training_s(
    folders: dict[str, Path], tmp_path: Path, step: str
) -> None:
    """Of which an image that was learned from may be in the test split."""
    measure, params, first, others = MEASURING[step]
    holder = champion(tmp_path / "champion", None)
    known = {"champion": None, "model_sha256": sha256_file(folders["export"] / "model.onnx")}
    write_json(holder / "metrics.json", known)
    write_json(holder / "benchmark.json", known)
    export_info = json.loads((folders["export"] / "export.json").read_text())
    exported = shutil.copytree(folders["export"], tmp_path / "export")
    write_json(exported / "export.json", export_info | {"model_file": "model.onnx"})
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
        words = [*changed_data, folders["train"], exported]
        with pytest.raises(UserError, match=message):
            measure(params, *words[:first], *[holder] * others, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_candidate_of_other_classes_is_refused(folders: dict[str, Path], exported: Exported, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    changed(exported[0], tmp_path / "export/model.onnx", other_classes)
    shutil.copy(folders["export"] / "export.json", tmp_path / "export")
    with pytest.raises(UserError, match=r"knows the classes background, pit, crack, scratch, and .*"):
        run(folders | {"export": tmp_path / "export"}, champion(tmp_path / "champion", None), tmp_path / "out")
