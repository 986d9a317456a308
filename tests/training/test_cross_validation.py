"""The benchmark that tests each image once, on 20 small images."""

import csv
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from benchmarks.cross_validation import CrossValidationRecord, FoldRecord, cross_validate, divide
from dbrnet.config import Params
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import split_samples
from dbrnet.errors import UserError
from tests.reports import examples
from tests.sections import PARAMS
from tests.training.conftest import NAMES, RECIPE

ROOT = Path(__file__).parents[2]
FOLDS = 3
TRAIN = PARAMS.train.model_copy(update=dict(RECIPE) | {"steps": 24, "learning_rate": 0.05, "checkpoint_seconds": 0.2})
QUICK = PARAMS.model_copy(update={"train": TRAIN})


@pytest.fixture(scope="module")
def pairs(dataset: Dataset) -> Dataset:
    """The dataset, with each two images of a class in one group: ten groups."""
    groups = {id_: f"g{index // 4}{index % 2}" for index, id_ in enumerate(dataset.by_id)}
    return dataset.regrouped(groups)


@pytest.fixture(scope="module")
def split(pairs: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split")
    groups = {sample.id: sample.group for sample in pairs.samples}
    split_samples(pairs, groups, kind="groups", fractions=(0.6, 0.2, 0.2), seed=0).save(folder)
    return folder


Run = Callable[[Path], CrossValidationRecord]


@pytest.fixture(scope="module")
def run(dataset: Dataset, split: Path) -> Run:
    return lambda out: cross_validate(dataset.root, split, QUICK, out, folds=FOLDS, seed=0, side_by_side=2)


@pytest.fixture(scope="module")
def out(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    run(folder)
    return folder


@pytest.mark.parametrize("folds", [2, 3, 4])
@pytest.mark.parametrize("seed", range(5))
def test_folds_cover_all_images_and_keep_groups_and_classes(pairs: Dataset, folds: int, seed: int) -> None:
    divided = divide(pairs, folds, seed)
    assert sorted(id_ for fold in divided for id_ in fold.test) == sorted(pairs.by_id)
    for fold in divided:
        parts = {part: [pairs.by_id[id_] for id_ in getattr(fold, part)] for part in ("train", "val", "test")}
        assert Counter(sample.id for part in parts.values() for sample in part) == Counter(list(pairs.by_id))
        groups = {part: {sample.group for sample in samples} for part, samples in parts.items()}
        assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 10
        for part in ("train", "test"):
            assert {label for sample in parts[part] for label in sample.classes} == {1, 2}
        assert len(parts["val"]) < len(parts["train"])


def test_disputed_images_are_tested_and_not_learnt_from(pairs: Dataset) -> None:
    whole = divide(pairs, FOLDS, 0)
    disputed = frozenset([whole[0].train[0], whole[0].val[0], whole[0].test[0]])
    for before, after in zip(whole, divide(pairs, FOLDS, 0, disputed=disputed), strict=True):
        assert after.train == tuple(id_ for id_ in before.train if id_ not in disputed)
        assert after.left_out == len(before.train) - len(after.train)
        assert (after.val, after.test) == (before.val, before.test)


def test_the_last_groups_of_a_class_are_learnt_from(pairs: Dataset) -> None:
    """One group is tested, and the other must not be in the validation split."""
    rare = {sample.group for sample in pairs.samples if 1 in sample.classes and sample.group not in {"g00", "g10"}}
    kept = tuple(sample for sample in pairs.samples if sample.group not in rare)
    for seed in range(10):
        for fold in divide(replace(pairs, samples=kept), 2, seed):
            assert {label for id_ in fold.train for label in pairs.by_id[id_].classes} == {1, 2}


def test_a_learning_curve_leaves_defects_out_of_training_alone(pairs: Dataset) -> None:
    whole = divide(pairs, FOLDS, 0)
    for before, after in zip(whole, divide(pairs, FOLDS, 0, groups=1), strict=True):
        assert (after.val, after.test) == (before.val, before.test)
        learnt = [pairs.by_id[id_] for id_ in after.train]
        for label in (1, 2):
            assert len({sample.group for sample in learnt if label in sample.classes}) >= 1
        assert len({sample.group for sample in learnt if sample.classes}) <= 2
        assert {id_ for id_ in before.train if not pairs.by_id[id_].classes} <= set(after.train)
    assert divide(pairs, FOLDS, 0, groups=100) == whole


def test_the_seed_decides_and_the_order_of_the_images_does_not(pairs: Dataset) -> None:
    turned = replace(pairs, samples=pairs.samples[::-1])
    assert divide(pairs, FOLDS, 0) == divide(turned, FOLDS, 0) != divide(pairs, FOLDS, 1)


@pytest.mark.timeout(400)
def test_the_pooled_scores_are_those_of_the_folds_together(out: Path, dataset: Dataset) -> None:
    record = CrossValidationRecord.load(out)
    assert np.array_equal(record.confusion, np.sum([fold.confusion for fold in record.folds], axis=0))
    assert np.sum(record.confusion) == sum(sample.height * sample.width for sample in dataset.samples)
    hits, total = np.diagonal(record.confusion), np.sum(record.confusion, axis=0) + np.sum(record.confusion, axis=1)
    iou = hits / (total - hits)
    assert [record.figures[f"iou/{name}"].value for name in NAMES] == pytest.approx(list(iou))
    assert [record.figures[name].value for name in ("miou", "miou_defects")] == pytest.approx(
        [iou.mean(), iou[1:].mean()]
    )
    assert iou[1:].max() > 0  # or this would hold of networks that find nothing
    assert {"defect_recall", "false_positives"} <= set(record.figures)
    assert (record.bootstrap.groups, record.images, record.folds[0].training.steps) == (10, 20, 24)
    assert record.figures["miou"].low is not None
    assert "| mIoU of defects" in (out / "cross_validation.md").read_text()


def test_every_image_is_tested_by_the_network_that_did_not_see_its_group(out: Path, pairs: Dataset) -> None:
    rows = list(csv.DictReader((out / "folds.csv").open()))
    tested = {
        (image.id, str(number), image.group)
        for number in range(1, FOLDS + 1)
        for image in FoldRecord.load(out / f"fold-{number}").images
    }
    assert {tuple(row.values()) for row in rows} == tested
    assert {row["id"]: row["group"] for row in rows} == {sample.id: sample.group for sample in pairs.samples}


@pytest.mark.timeout(400)
def test_only_the_fold_that_is_missing_is_made_again(out: Path, run: Run) -> None:
    files = [out / f"fold-{number}" / name for number in (1, 3) for name in ("fold.json", "checkpoint.pt", "log.txt")]
    times, before = [file.stat().st_mtime_ns for file in files], CrossValidationRecord.load(out)
    again = out / "fold-2" / "fold.json"
    again.unlink()
    (out / "fold-2" / "checkpoint.pt").unlink()
    after = run(out)
    assert again.exists()
    assert [file.stat().st_mtime_ns for file in files] == times
    assert (after.confusion, after.figures) == (before.confusion, before.figures)


def test_the_table_of_results_has_folds_and_single_runs(out: Path, tmp_path: Path) -> None:
    for record, step in ((examples.train(), "train"), (examples.evaluation(), "evaluate")):
        (tmp_path / step).mkdir()
        record.save(tmp_path / step)
    words = [sys.executable, str(ROOT / "benchmarks/results.py"), str(out), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    shown = subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout
    pooled = CrossValidationRecord.load(out)
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in shown.splitlines() if "| " in line]
    assert rows[2][:5] == ["made-up", "group, 3 folds", "none", "3", str(pooled.figures["miou"])]
    assert rows[3][4] == str(examples.evaluation().figures["miou"])
    missing = subprocess.run([*words, str(tmp_path / "nowhere")], capture_output=True, text=True, env=environment)
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1)


def command(dataset: Dataset, split: Path, params: Params, out: Path, *more: str) -> list[str]:
    path = out.with_name("params.yaml")
    YAML().dump(params.model_dump(mode="json"), path)
    script = str(ROOT / "benchmarks/cross_validation.py")
    return [sys.executable, script, str(dataset.root), str(split), "--params", str(path), "--out", str(out), *more]


def test_a_class_with_fewer_groups_than_folds_is_one_line(dataset: Dataset, split: Path, tmp_path: Path) -> None:
    words = command(dataset, split, QUICK, tmp_path / "out", "--folds", "6")
    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: class 'light' has 5 groups, and none is in the test split of fold 5 of 6")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_foreign_folders_and_datasets_are_refused(dataset: Dataset, split: Path, run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="did not write"):
        run(tmp_path)
    with pytest.raises(UserError, match="overlaps with the split"):
        run(split)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_it_leaves_no_process_and_goes_on(dataset: Dataset, split: Path, out: Path, tmp_path: Path) -> None:
    words = command(dataset, split, QUICK, tmp_path / "out", "--folds", str(FOLDS), "--side-by-side", "1")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE) as process:
        while not (tmp_path / "out/fold-2/checkpoint.pt").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.stderr is not None
        process.stderr.read()  # ends when the last child that holds it does
    first = (tmp_path / "out/fold-1/fold.json").stat().st_mtime_ns
    assert not (tmp_path / "out/fold-2/fold.json").exists()
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 of 3 folds are finished" in done.stderr
    assert (tmp_path / "out/fold-1/fold.json").stat().st_mtime_ns == first
    for number in range(1, FOLDS + 1):
        resumed, unbroken = (FoldRecord.load(folder / f"fold-{number}") for folder in (tmp_path / "out", out))
        assert resumed.images == unbroken.images  # their confidences too, which tell any two networks apart
    assert "| mIoU of defects" in done.stdout
