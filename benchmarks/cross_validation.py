"""Cross-validation: how a set with few defects is judged.

    python benchmarks/cross_validation.py DATASET SPLIT --params params.yaml --out DIR --folds 5

A test split of a fifth holds too few defects to say much. Here each image is tested once: the groups of near-duplicates
that the split step found in DATASET (its folder SPLIT) are divided into folds, stratified by class as that step
divides them, and each fold is held out from a training of its own with the section train of params.yaml. A tenth of
the other groups is that training's validation split. All held-out images are then scored together, at native size, with
PyTorch; the section evaluate says when a defect counts as found, and how wide the intervals are. These come from
resampling groups. How far trainings differ, the folds show. Images whose labels the audit disputes are tested and not
learnt from. `--groups N` keeps at most N defective groups a class to learn from: the figures of 5, 10, 20 and 40 are a
learning curve.

Up to `--side-by-side` folds are trained at a time, each in a process of one thread. Killed at any time and run again
with the same arguments, it goes on. Under --out it writes

    cross_validation.json  all figures, and how they were made
    cross_validation.md    those for people, which are printed too
    folds.csv              id, fold, group
    fold-N/                the training's checkpoint and log, and fold.json: the counts of its held-out images
"""

import argparse
import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch

from dbrnet.benchmark.measurement import table
from dbrnet.config import EvaluateParams, Params, load_params
from dbrnet.data import Dataset, open_dataset
from dbrnet.data.dataset import Sample, write_table
from dbrnet.data.split import Split, stratify_groups
from dbrnet.errors import JobError, UserError
from dbrnet.evaluation.defect_metrics import DefectCounts
from dbrnet.evaluation.figures import summarise
from dbrnet.evaluation.predictions import Evaluation, ImageResult, evaluate
from dbrnet.files import claim, require_apart, require_own, write_atomically
from dbrnet.inference.runtimes.pytorch import TorchModel
from dbrnet.progress import duration, say
from dbrnet.provenance import collect_provenance
from dbrnet.records import Part, Provenance, Record, SplitScores, TrainingFacts, format_value
from dbrnet.steps.train import open_start, training_facts
from dbrnet.training.loop import train

COMMAND = "cross_validation"
VALIDATION = 0.1  # of the groups that a fold trains on


@dataclass(frozen=True)
class Fold:
    """The ids of the images that one training learns from, is watched on, and is tested on."""

    number: int  # from 1
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]
    left_out: int  # disputed images that would have been learnt from


class ImageCounts(Part):
    """An `ImageResult` in plain values."""

    id: str
    group: str
    confusion: list[list[int]]
    confidence: float
    defects: dict[str, list[int] | list[list[int]]]  # by the names of `DefectCounts`

    @classmethod
    def of(cls, image: ImageResult) -> Self:
        """The counts of `image`."""
        defects = {name: values.tolist() for name, values in vars(image.defects).items()}
        return cls(**vars(image) | {"confusion": image.confusion.tolist(), "defects": defects})

    def result(self) -> ImageResult:
        """The image that they were taken of."""
        defects = DefectCounts(**{name: np.array(values) for name, values in self.defects.items()})
        return ImageResult(self.id, self.group, np.array(self.confusion), self.confidence, defects)


class FoldScores(SplitScores):
    """The scores of one fold, and how its network came about."""

    number: int
    training: TrainingFacts
    provenance: Provenance


class FoldRecord(Record):
    """fold.json: what a finished fold leaves."""

    FILE = "fold.json"
    STEP = COMMAND

    fingerprint: str  # of its training
    rules: EvaluateParams
    scores: FoldScores
    images: list[ImageCounts]  # of the held-out ones


class CrossValidationRecord(Record, SplitScores):
    """cross_validation.json: the scores over all held-out images, and those of each fold."""

    FILE = "cross_validation.json"
    STEP = COMMAND

    dataset: str
    content_hash: str
    seed: int  # of the folds; the recipe has its own
    groups: int | None  # of each class, at most, that a training saw defects of
    folds: list[FoldScores]
    provenance: Provenance  # of the pooling; each fold has its own


def keep_groups(samples: list[Sample], groups: int, seed: int) -> list[Sample]:
    """The samples without defects, and those of `groups` groups a class, drawn by `seed`."""
    kept: set[str] = set()
    for label in sorted({label for sample in samples for label in sample.classes}):
        held = sorted({sample.group for sample in samples if label in sample.classes})
        kept.update(np.random.default_rng([seed, label]).permutation(held)[:groups].tolist())
    return [sample for sample in samples if not sample.classes or sample.group in kept]


def divide(
    dataset: Dataset, folds: int, seed: int, *, disputed: frozenset[str] = frozenset(), groups: int | None = None
) -> list[Fold]:
    """Divide the dataset by its groups; raises `UserError` where a class cannot reach every test and training.

    No training sees the images `disputed`, nor defects of more than `groups` groups of a class.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: at least 2 are needed, one to test and one to train on")
    if groups is not None and groups < 1:
        raise UserError(f"--groups {groups}: at least 1 is needed to learn from")
    samples, classes = sorted(dataset.samples, key=lambda sample: sample.id), dataset.card.classes
    fold_of = stratify_groups(samples, [1 / folds] * folds, seed)
    made = []
    for index in range(folds):
        rest = [sample for sample in samples if fold_of[sample.group] != index]
        known = Counter(label for _, label in {(sample.group, label) for sample in rest for label in sample.classes})
        lone = {sample.group: 0 for sample in rest if any(known[label] == 1 for label in sample.classes)}  # learnt from
        part_of = stratify_groups(rest, (1 - VALIDATION, VALIDATION), seed, lone)
        splits: dict[str, list[Sample]] = {"train": [], "val": [], "test": []}
        for sample in samples:
            splits["test" if fold_of[sample.group] == index else ("train", "val")[part_of[sample.group]]].append(sample)
        left_out = sum(sample.id in disputed for sample in splits["train"])
        splits["train"] = [sample for sample in splits["train"] if sample.id not in disputed]
        if groups is not None:
            splits["train"] = keep_groups(splits["train"], groups, seed)
        for split in ("train", "test"):  # in val, which shows how it goes, a class may lack
            for label, info in enumerate(classes[1:], start=1):
                if not any(label in sample.classes for sample in splits[split]):
                    held = {sample.group for sample in samples if label in sample.classes}
                    raise UserError(
                        f"class {info.name!r} has {len(held)} groups, and none is in the {split} split of fold "
                        f"{index + 1} of {folds}; give fewer --folds, another --seed, or add images of it"
                    )
        ids = {split: tuple(sample.id for sample in held) for split, held in splits.items()}
        made.append(Fold(index + 1, **ids, left_out=left_out))
    return made


def finished(out: Path, fold: Fold, fingerprint: str, rules: EvaluateParams) -> bool:
    """Whether the result of `fold` is there, and is of this very training and these rules."""
    with contextlib.suppress(UserError):  # missing, or of another version
        record = FoldRecord.load(out / f"fold-{fold.number}")
        return (record.fingerprint, record.rules) == (fingerprint, rules)
    return False


def run_fold(dataset: Path, split: Path, params: Params, fold: Fold, out: Path, fingerprint: str) -> None:
    """Train without the held-out images and test on them; the result is a file in the fold's folder."""
    folder = out / f"fold-{fold.number}"
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    data = Split.load(split).regrouped(open_dataset(dataset))
    # A log of its own: the lines and bars of folds side by side would run into each other.
    with (folder / "log.txt").open("a", buffering=1) as log, contextlib.redirect_stderr(log):
        logging.basicConfig(level=logging.INFO, stream=log, format="%(asctime)s %(message)s", force=True)
        start = open_start(params.train.start)
        result = train(
            *(data, fold.train, fold.val, params.train, folder),
            workers=params.train.workers,
            checkpoint_seconds=params.train.checkpoint_seconds,
            start=start,
        )
        model = TorchModel(result.model, result.meta, threads=1)
        tested = evaluate(model.predict, data, fold.test, params.evaluate.match, f"test fold {fold.number}")
    record = FoldRecord(
        fingerprint=fingerprint,
        rules=params.evaluate,
        scores=FoldScores(
            **vars(summarise(tested, params.evaluate.match, params.evaluate.confidence)),
            number=fold.number,
            training=training_facts(params.train, start, result, left_out=fold.left_out),
            provenance=collect_provenance(),
        ),
        images=[ImageCounts.of(image) for image in tested.images],
    )
    write_atomically(folder / FoldRecord.FILE, record.model_dump_json())  # on one line: it is long


def follow_parent() -> None:
    """End with the parent, also where it is killed: a second run must not meet trainings of the first."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cross_validate(
    dataset: Path,
    split: Path,
    params: Params,
    out: Path,
    *,
    folds: int,
    seed: int,
    side_by_side: int,
    groups: int | None = None,
) -> CrossValidationRecord:
    """Train the folds that are not finished, pool all, and write the record and the table into `out`."""
    splits, data = Split.load(split), open_dataset(dataset)
    splits.samples(data, "test")  # raises where the dataset is not the one that was split
    data = splits.regrouped(data)
    for name, read in {"the dataset": dataset, "the split": split}.items():
        require_apart(out, read, name)
    require_own(out, COMMAND)
    divided = divide(data, folds, seed, disputed=frozenset(splits.disputed), groups=groups)
    claim(out, COMMAND)
    rows = sorted((id_, fold.number, splits.groups[id_]) for fold in divided for id_ in fold.test)
    write_table(out / "folds.csv", ("id", "fold", "group"), rows)

    start = open_start(params.train.start)
    if start and start.seen.intersection(data.by_id):
        raise UserError(f"train.start: {start.source} has learnt from images of {dataset}, which the folds test on")
    left = []
    for fold in divided:
        groups_of = data.groups(fold.train), data.groups(fold.val)
        own = params.train.fingerprint(splits.content_hash, *groups_of, start.digest if start else "")
        if not finished(out, fold, own, params.evaluate):
            left.append((dataset, split, params, fold, out, own))
    say(f"{folds - len(left)} of {folds} folds are finished; the others write fold-N/log.txt under {out}")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    with ProcessPoolExecutor(max(1, side_by_side), multiprocessing.get_context("spawn"), follow_parent) as processes:
        running = {processes.submit(run_fold, *arguments): arguments[3].number for arguments in left}
        try:
            for done in as_completed(running):
                if error := done.exception():  # the others may still take hours
                    say(f"fold {running[done]} failed: {error}")
                    raise error
                say(f"fold {running[done]} is finished")
        except BrokenExecutor:
            raise JobError("the process of a fold was killed; run again to go on") from None
        finally:
            processes.shutdown(cancel_futures=True)

    records = [FoldRecord.load(out / f"fold-{fold.number}") for fold in divided]
    images = sorted((image.result() for record in records for image in record.images), key=lambda image: image.id)
    pooled = Evaluation(tuple(info.name for info in data.card.classes), tuple(images))
    result = CrossValidationRecord(
        **vars(summarise(pooled, params.evaluate.match, params.evaluate.confidence)),
        dataset=data.card.name,
        content_hash=splits.content_hash,
        seed=seed,
        groups=groups,
        folds=[record.scores for record in records],
        provenance=collect_provenance(),
    )
    result.save(out)
    write_atomically(out / "cross_validation.md", describe(result))
    return result


def describe(result: CrossValidationRecord) -> str:
    """The figures for people, in Markdown."""
    titles = {
        "miou": "mIoU with background",
        "miou_defects": "mIoU of defects",
        **{name: name.replace("iou/", "IoU of ") for name in result.figures if name.startswith("iou/")},
        "defect_recall": "defects found",
        "false_positives": "false positives per defect-free image",
    }
    columns = {"held out": ["images", *titles.values()]}
    columns["all"] = [f"{result.images}", *(str(result.figures[name]) for name in titles)]
    for fold in result.folds:
        own = [fold.figures[name] for name in titles]
        columns[f"fold {fold.number}"] = [f"{fold.images}", *(format_value(one.value, one.unit) for one in own)]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    training, seconds = result.folds[0].training, sum(fold.training.seconds for fold in result.folds)
    start = training.start.source if training.start else "random weights"
    few = "" if result.groups is None else f" on the defects of at most {result.groups} groups a class"
    lines = [
        f"# Cross-validation of {result.dataset}",
        f"{len(result.folds)} folds by group, seed {result.seed}: {result.images} images in {result.bootstrap.groups} "
        f"groups, each tested once. Every training: {training.steps} iterations from {start}{few}, seed "
        f"{training.seed}; {duration(seconds)} together on {result.provenance.hardware.processors}. In brackets: "
        f"{result.bootstrap.confidence:.0%} intervals, by resampling groups.",
        table(rows),
    ]
    if len({fold.provenance.model_dump_json() for fold in result.folds}) > 1:
        lines.append("The folds were made by different code, libraries or machines: see cross_validation.json.")
    return "\n\n".join(lines) + "\n"


def main() -> None:
    """Train what is left to train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("split", type=Path)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--groups", type=int, help="defective groups of a class to learn from, at most")
    parser.add_argument("--side-by-side", type=int, default=2, help="folds trained at a time")
    given = vars(parser.parse_args())
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as if killed: the folds end with this process
    print(describe(cross_validate(**given | {"params": load_params(given["params"])})))


if __name__ == "__main__":
    try:
        main()
    except (UserError, JobError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UserError) else 1) from None
