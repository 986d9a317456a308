"""The trainings of gpu.py: a dataset from its archive, its splits, a training as long as there is time, its score."""

import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ruamel.yaml import YAML

from dbrnet.audit.result import search
from dbrnet.config import TrainParams, load_params
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import Kind, Split, split_samples, stratify_groups
from dbrnet.data.synthetic import generate
from dbrnet.data.writer import build_dataset
from dbrnet.evaluation.metrics import Scores
from dbrnet.evaluation.predictions import Evaluation, evaluate
from dbrnet.files import write_json
from dbrnet.inference.runtimes.pytorch import TorchModel
from dbrnet.models.saved import save_model
from dbrnet.records import WEIGHTS_FILE
from dbrnet.training.distributed import join_processes
from dbrnet.training.loop import Run, TrainResult, train
from dbrnet.training.start import GENERATED, Start
from dbrnet.training.task import dataset_task

if TYPE_CHECKING:
    from gpu_parts import Part  # type: ignore[import-not-found]

ROOT = Path(__file__).parents[1]
CUDA = torch.cuda.is_available()
EPOCHS = 200  # the paper's
SPARE = 0.7  # share of the time that a training is planned for
TRIAL = 0.1  # share of the time that its speed is measured in
VALIDATED = 4  # every fourth image of the validation split: it only shows how the training goes
FRACTIONS = 0.6, 0.2, 0.2
FOLDS = 5


def train_neu_seg(part: "Part") -> None:
    """NEU-Seg on the group split and on the random split, each in half of the time that is left."""
    dataset = prepare(part, "neu-seg", "neu-seg.zip")
    groups = search(dataset).groups.of
    part.note("groups", len(set(groups.values())))
    scores: dict[Kind, Scores] = {}
    kinds: tuple[Kind, ...] = ("groups", "random")
    for place, kind in enumerate(kinds):
        split = split_samples(dataset, groups, kind=kind, fractions=FRACTIONS, seed=0)
        part.note(f"{kind}, share of the test images that leak", split.leak_rate["test"])
        seconds = part.left / (len(kinds) - place)
        scores[kind] = learn(part, dataset, split, "neu-seg", kind, seconds)
    part.note("random above group split, points of mIoU", 100 * (scores["random"].miou - scores["groups"].miou))


def other_sets(part: "Part") -> None:
    """MT in folds and Severstal's part; the comparison networks are not built yet."""
    part.note("comparison networks", "not in this version of the project")
    sets = {"magnetic-tile": "magnetic-tile.zip", "severstal": "severstal-steel-defect-detection.zip"}
    there = {name: file for name, file in sets.items() if part.data and (part.data / file).exists()}
    for name in sets.keys() - there.keys():
        part.note(name, "not in --data")
    if "severstal" in there:
        dataset = prepare(part, "severstal", there["severstal"])
        split = split_samples(dataset, search(dataset).groups.of, kind="groups", fractions=FRACTIONS, seed=0)
        learn(part, dataset, split, "severstal", "groups", part.left / len(there))
    if "magnetic-tile" in there:
        fold_by_fold(part, prepare(part, "magnetic-tile", there["magnetic-tile"]))


def prepare(part: "Part", name: str, archive: str) -> Dataset:
    """The dataset from its archive in --data; without it generated images."""
    began = time.monotonic()
    source = part.data / archive if part.data else Path(archive)
    folder = part.out / "data" / name
    if not source.exists():
        part.note("data", f"generated: {archive} is not in --data")
        name, source, folder = "steel-strip", part.out / "data" / "strips", part.out / "data" / "steel-strip"
        generate(source, images=400 if CUDA else 40)
    if not folder.exists():
        partial = folder.with_name(f".{name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        build_dataset(name, source, partial).save_tables()
        partial.replace(folder)
    dataset = Dataset.load(folder)
    part.note(f"{name}, images", len(dataset.samples))
    part.note(f"{name}, content hash", dataset.card.content_hash)
    part.note(f"{name}, seconds to read", time.monotonic() - began)
    return dataset


def recipe_of(name: str) -> TrainParams:
    """The section train of params.yaml with the dataset's recipe; at the paper's resolution where it is NEU-Seg's."""
    changes = YAML(typ="safe").load((ROOT / "recipes" / f"{name}.yaml").read_text())["train"]
    if not GENERATED.exists():
        changes["start"] = None
    if not CUDA:  # to try the code
        changes |= {"zoom": 1.0, "crop": [64, 64], "batch_size": 2}
    elif name == "neu-seg":
        changes |= {"zoom": 2.5, "crop": [512, 512], "batch_size": 32}
    return TrainParams.model_validate(load_params(ROOT / "params.yaml").train.model_dump() | changes)


def learn(part: "Part", dataset: Dataset, split: Split, name: str, kind: str, seconds: float) -> Scores:
    """Train on a split for about `seconds`, and score the test split; keeps the weights and the curve."""
    ids = {each: [sample.id for sample in split.samples(dataset, each)] for each in ("train", "val", "test")}
    result, scored = train_and_test(part, split.regrouped(dataset), ids, name, kind, seconds)
    folder = part.out / f"{name}-{kind}"
    folder.mkdir(exist_ok=True)
    save_model(folder / WEIGHTS_FILE, result.model, result.meta)
    write_json(folder / "curve.json", {"losses": result.step_losses, "rows": [asdict(row) for row in result.history]})
    scores = scored.scores
    part.note(f"{name}, {kind}: test mIoU", scores.miou)
    part.note(f"{name}, {kind}: test IoU", scores.iou)
    return scores


def train_and_test(
    part: "Part", dataset: Dataset, ids: dict[str, list[str]], name: str, label: str, seconds: float
) -> tuple[TrainResult, Evaluation]:
    """Train for about `seconds`, and predict the images of `ids["test"]`."""
    end = time.monotonic() + seconds
    recipe, val_ids = recipe_of(name), ids["val"][::VALIDATED]
    start = Start.read(GENERATED, "generated defects") if recipe.start == "generated" else None
    iteration = seconds_of_iteration(dataset, ids["train"], val_ids, recipe, start, TRIAL * seconds)
    most = EPOCHS * len(ids["train"]) // recipe.batch_size
    steps = max(2, min(most, int(SPARE * (end - time.monotonic()) / iteration)))
    recipe = recipe.model_copy(update={"steps": steps, "warmup_steps": min(recipe.warmup_steps, steps // 10)})
    plan = {"batch": recipe.batch_size, "steps": steps, "epochs": steps * recipe.batch_size / len(ids["train"])}
    part.note(f"{name}, {label}: plan", plan | {"images/s": recipe.batch_size / iteration, "start": recipe.start})
    workdir = part.out / "checkpoints" / f"{name}-{label}"
    result = train(
        dataset, ids["train"], val_ids, recipe, workdir, workers=None, checkpoint_seconds=3600.0, start=start
    )
    part.note(f"{name}, {label}: seconds of training", result.seconds)
    part.note(f"{name}, {label}: validation mIoU", [row.val_miou for row in result.history])
    model = TorchModel(result.model, result.meta, threads=torch.get_num_threads())
    return result, evaluate(model.predict, dataset, ids["test"])


def seconds_of_iteration(
    dataset: Dataset, train_ids: list[str], val_ids: list[str], recipe: TrainParams, start: Start | None, seconds: float
) -> float:
    """An iteration's time with the loading of its images, from a trial of about `seconds`."""
    with join_processes() as distributed:
        task = dataset_task(dataset, train_ids, val_ids, recipe, distributed, warm=CUDA)
        run = Run(task, recipe, distributed, workers=None, start=start)
        began, done = time.monotonic(), 0
        for images, masks in run.batches_to_validation():
            run.iterate(images, masks)
            done += 1
            if done == 2:  # the first ones choose algorithms
                began = time.monotonic()
            elif done >= 4 and time.monotonic() - began > seconds:
                break
        run.read_losses()
        run.loader = None
        return (time.monotonic() - began) / max(done - 2, 1)


def fold_by_fold(part: "Part", dataset: Dataset) -> None:
    """MT: each group is tested once; the confusion matrices are added up."""
    dataset = dataset.regrouped(search(dataset).groups.of)
    samples = sorted(dataset.samples, key=lambda sample: sample.id)
    fold_of = stratify_groups(samples, [1 / FOLDS] * FOLDS, 0)
    images: list[Any] = []
    for fold in range(FOLDS):
        rest = [sample for sample in samples if fold_of[sample.group] != fold]
        part_of = stratify_groups(rest, (0.9, 0.1), 0)
        ids = {
            "train": [sample.id for sample in rest if part_of[sample.group] == 0],
            "val": [sample.id for sample in rest if part_of[sample.group] == 1],
            "test": [sample.id for sample in samples if fold_of[sample.group] == fold],
        }
        seconds = part.left / (FOLDS - fold)
        _, scored = train_and_test(part, dataset, ids, "magnetic-tile", f"fold {fold + 1}", seconds)
        images += scored.images
        pooled = Evaluation(scored.classes, tuple(images)).scores
        part.note(f"magnetic-tile, folds 1 to {fold + 1} pooled: mIoU", pooled.miou)
        part.note(f"magnetic-tile, folds 1 to {fold + 1} pooled: IoU", pooled.iou)
    part.note("magnetic-tile, images tested", int(np.size(images)))
