"""Cross-validation: how a set with few defects is judged.

    python benchmarks/cross_validation.py DATASET SPLIT --params params.yaml --out DIR --folds 5

A test split of a fifth holds too few defects to say much. Here each image is tested once: the groups of near-duplicates
that the split step found in DATASET (its folder SPLIT) are divided into folds, stratified by class as that step
divides them, and each fold is held out from a training of its own with the section train of params.yaml. A tenth of
the other groups is that training's validation split. All held-out images are then scored together, at native size, with
PyTorch; the section evaluate says when a defect counts as found, and how wide the intervals are. These come from
resampling groups. How far trainings differ, the folds show.

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
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import JsonValue

from dbrnet.benchmark.measurement import table
from dbrnet.config import Params, load_params
from dbrnet.data import Dataset, open_dataset
from dbrnet.data.dataset import write_table
from dbrnet.data.split import Split, stratify_groups
from dbrnet.errors import JobError, UserError
from dbrnet.evaluation.bootstrap import RESAMPLES, SEED
from dbrnet.evaluation.defect_metrics import DefectCounts
from dbrnet.evaluation.figures import estimates
from dbrnet.evaluation.predictions import Evaluation, ImageResult, evaluate
from dbrnet.files import claim, require_apart, require_own, write_atomically
from dbrnet.inference.runtimes.pytorch import TorchModel
from dbrnet.progress import duration, say
from dbrnet.provenance import collect_provenance
from dbrnet.records import Bootstrap, Estimate, MatchFacts, Part, Provenance, Record, StartFacts, format_value
from dbrnet.steps.train import _open_start as open_start
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


class ImageCounts(Part):
    """An `ImageResult` in plain values."""

    id: str
    group: str
    confusion: list[list[int]]
    confidence: float
    defects: dict[str, list[int] | list[list[int]]]  # by the names of `DefectCounts`


class FoldFacts(Part):
    """How the network of one fold came about."""

    number: int
    images: dict[str, int]  # that it was trained on, watched on and tested on
    chosen_step: int  # whose weights were tested
    val_miou: float  # of these weights
    seconds: float  # of its training
    device: str
    warnings: tuple[str, ...]
    provenance: Provenance


class FoldRecord(Record):
    """fold.json: what a finished fold leaves, from which the figures are made."""

    FILE = "fold.json"
    STEP = COMMAND

    fingerprint: str  # of its training
    match: MatchFacts
    facts: FoldFacts
    images: list[ImageCounts]

    def evaluation(self, classes: tuple[str, ...]) -> Evaluation:
        """The counts as the test of a network with these classes gave them."""
        results = (
            ImageResult(
                *(image.id, image.group, np.array(image.confusion), image.confidence),
                DefectCounts(**{name: np.array(values) for name, values in image.defects.items()}),
            )
            for image in self.images
        )
        return Evaluation(classes, tuple(results))


class FoldScores(FoldFacts):
    """One fold and its scores."""

    figures: dict[str, Estimate]
    confusion: list[list[int]]  # [C, C], rows: ground truth


class CrossValidationRecord(Record):
    """cross_validation.json: the scores over all held-out images, and those of each fold."""

    FILE = "cross_validation.json"
    STEP = COMMAND

    dataset: str
    content_hash: str
    images: int
    split: str  # its kind
    seed: int  # of the folds; the recipe has its own
    recipe: dict[str, JsonValue]  # the section train
    steps: int  # of each training
    start: StartFacts | None  # None: random weights
    match: MatchFacts
    bootstrap: Bootstrap
    figures: dict[str, Estimate]
    confusion: list[list[int]]  # [C, C], rows: ground truth
    folds: list[FoldScores]
    seconds: float  # of all trainings
    provenance: Provenance  # of the pooling; each fold has its own


def divide(dataset: Dataset, folds: int, seed: int) -> list[Fold]:
    """Divide the dataset by its groups; raises `UserError` where a class cannot reach every test and training."""
    if folds < 2:
        raise UserError(f"--folds {folds}: at least 2 are needed, one to test and one to train on")
    samples, names = sorted(dataset.samples, key=lambda sample: sample.id), [info.name for info in dataset.card.classes]
    for label, name in enumerate(names[1:], start=1):
        held = len({sample.group for sample in samples if label in sample.classes})
        if held < folds:
            raise UserError(
                f"class {name!r} has {held} groups, and needs {folds} to reach every fold; give fewer --folds, add "
                "images of it, or drop the class"
            )
    fold_of = stratify_groups(samples, [1 / folds] * folds, seed)
    made = []
    for index in range(folds):
        rest = [sample for sample in samples if fold_of[sample.group] != index]
        part_of = stratify_groups(rest, (1 - VALIDATION, VALIDATION), seed)
        parts = {
            "train": [sample for sample in rest if part_of[sample.group] == 0],
            "val": [sample for sample in rest if part_of[sample.group] == 1],
            "test": [sample for sample in samples if fold_of[sample.group] == index],
        }
        for part in ("train", "test"):  # in val, which shows how it goes, a class may lack
            reached = {label for sample in parts[part] for label in sample.classes}
            for label in sorted(set(range(1, len(names))) - reached):
                raise UserError(
                    f"class {names[label]!r} does not reach the {part} part of fold {index + 1} with this --seed; "
                    "give another, other --folds, or add images of it"
                )
        made.append(Fold(index + 1, **{part: tuple(sample.id for sample in held) for part, held in parts.items()}))
    return made


def finished(out: Path, fold: Fold, fingerprint: str, match: MatchFacts) -> bool:
    """Whether the result of `fold` is there, and is of this very training and these rules."""
    try:
        record = FoldRecord.load(out / f"fold-{fold.number}")
    except UserError:  # missing, or of another version
        return False
    return (record.fingerprint, record.match) == (fingerprint, match)


def run_fold(
    dataset: Path, split: Path, params: Params, match: MatchFacts, fold: Fold, out: Path, fingerprint: str
) -> None:
    """Train without the held-out images and test on them; the result is a file in the fold's folder."""
    folder = out / f"fold-{fold.number}"
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    data = Split.load(split).regrouped(open_dataset(dataset))
    # A log of its own: the lines and bars of folds side by side would run into each other.
    with (folder / "log.txt").open("a", buffering=1) as log, contextlib.redirect_stderr(log):
        logging.basicConfig(level=logging.INFO, stream=log, format="%(asctime)s %(message)s", force=True)
        result = train(
            *(data, fold.train, fold.val, params.train, folder),
            workers=params.train.workers,
            checkpoint_seconds=params.train.checkpoint_seconds,
            start=open_start(params.train.start),
        )
        model = TorchModel(result.model, result.meta, threads=1)
        tested = evaluate(model.predict, data, fold.test, match, f"test fold {fold.number}")
    facts = FoldFacts(
        number=fold.number,
        images={"train": len(fold.train), "val": len(fold.val), "test": len(fold.test)},
        **{name: getattr(result, name) for name in ("chosen_step", "val_miou", "seconds", "device", "warnings")},
        provenance=collect_provenance(),
    )
    images = [
        ImageCounts(
            id=image.id,
            group=image.group,
            confusion=image.confusion.tolist(),
            confidence=image.confidence,
            defects={name: values.tolist() for name, values in vars(image.defects).items()},
        )
        for image in tested.images
    ]
    record = FoldRecord(fingerprint=fingerprint, match=match, facts=facts, images=images)
    write_atomically(folder / FoldRecord.FILE, record.model_dump_json())  # on one line: it is long


def in_own_process(*arguments: object) -> None:
    """`run_fold` in a fresh process, which ends with this one: what a fold sets in PyTorch stays its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, initializer=_follow_parent) as process:
        process.submit(run_fold, *arguments).result()  # type: ignore[arg-type]


def _follow_parent() -> None:
    """End with the parent, also where it is killed: a second run must not meet trainings of the first."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cross_validate(
    dataset: Path, split: Path, params: Params, out: Path, *, folds: int, seed: int, side_by_side: int
) -> CrossValidationRecord:
    """Train the folds that are not finished, pool all, and write the record and the table into `out`."""
    splits, data = Split.load(split), open_dataset(dataset)
    splits.samples(data, "test")  # raises where the dataset is not the one that was split
    data = splits.regrouped(data)
    for name, read in {"the dataset": dataset, "the split": split}.items():
        require_apart(out, read, name)
    require_own(out, COMMAND)
    divided = divide(data, folds, seed)
    claim(out, COMMAND)
    rows = sorted((id_, fold.number, splits.groups[id_]) for fold in divided for id_ in fold.test)
    write_table(out / "folds.csv", ("id", "fold", "group"), rows)

    start = open_start(params.train.start)
    digest = start.digest if start else ""
    prints = [params.train.fingerprint(splits.content_hash, fold.train, fold.val, digest) for fold in divided]
    rules = params.evaluate
    match = MatchFacts(min_overlap=rules.min_overlap, boundary_tolerance=rules.boundary_tolerance)
    left = [(fold, own) for fold, own in zip(divided, prints, strict=True) if not finished(out, fold, own, match)]
    say(f"{folds - len(left)} of {folds} folds are finished; the others write fold-N/log.txt under {out}")
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes to come
    with ThreadPoolExecutor(max(1, side_by_side)) as threads:
        running = {
            threads.submit(in_own_process, dataset, split, params, match, fold, out, own): fold for fold, own in left
        }
        try:
            for done in as_completed(running):
                done.result()
                say(f"fold {running[done].number} is finished")
        except BrokenProcessPool:
            raise JobError(f"the process of fold {running[done].number} was killed; run again to go on") from None
        finally:
            threads.shutdown(cancel_futures=True)

    records = [FoldRecord.load(out / f"fold-{fold.number}") for fold in divided]
    names = tuple(info.name for info in data.card.classes)
    tested = [record.evaluation(names) for record in records]
    pooled = Evaluation(names, tuple(sorted((i for one in tested for i in one.images), key=lambda i: i.id)))
    result = CrossValidationRecord(
        dataset=data.card.name,
        content_hash=splits.content_hash,
        images=len(pooled.images),
        split=f"{folds} folds by group",
        seed=seed,
        recipe=params.train.model_dump(mode="json"),
        steps=params.train.steps,
        start=StartFacts(source=start.source, sha256=start.digest) if start else None,
        match=match,
        bootstrap=Bootstrap(
            resamples=RESAMPLES, confidence=rules.confidence, groups=len({i.group for i in pooled.images}), seed=SEED
        ),
        figures=estimates(pooled, rules.confidence),
        confusion=pooled.confusion.tolist(),
        folds=[
            FoldScores(**vars(record.facts), figures=estimates(one, rules.confidence), confusion=one.confusion.tolist())
            for record, one in zip(records, tested, strict=True)
        ],
        seconds=sum(record.facts.seconds for record in records),
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
    columns = {"all": [f"{result.images}", *(str(result.figures[name]) for name in titles)]}
    for fold in result.folds:
        own = [fold.figures[name] for name in titles]
        columns[f"fold {fold.number}"] = [f"{fold.images['test']}", *(format_value(one.value, one.unit) for one in own)]
    rows = [
        {"held out": title, **{name: cells[index] for name, cells in columns.items()}}
        for index, title in enumerate(("images", *titles.values()))
    ]
    lines = [
        f"# Cross-validation of {result.dataset}",
        f"{result.split}, seed {result.seed}: {result.images} images in {result.bootstrap.groups} groups, each tested "
        f"once. Every training: {result.steps} steps from {result.start.source if result.start else 'random weights'}, "
        f"seed {result.recipe['seed']}; together {duration(result.seconds)} on {result.provenance.hardware.processors}."
        f" In brackets: {result.bootstrap.confidence:.0%} intervals, by resampling groups.",
        table(rows),
    ]
    if len({fold.provenance.model_dump_json() for fold in result.folds}) > 1:
        lines.append("The folds were made by different code, libraries or machines: see cross_validation.json.")
    return "\n\n".join(lines) + "\n"


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("split", type=Path)
    parser.add_argument("--params", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument("--side-by-side", type=int, default=2, help="folds trained at a time")
    return parser.parse_args()


def main() -> None:
    """Train what is left to train, and print the table."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as if killed: the folds end with this process
    given = parse()
    counts = {"folds": given.folds, "seed": given.seed, "side_by_side": given.side_by_side}
    result = cross_validate(given.dataset, given.split, load_params(given.params), given.out, **counts)
    print(describe(result))


if __name__ == "__main__":
    try:
        main()
    except (UserError, JobError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, UserError) else 1) from None
