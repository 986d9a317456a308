"""The tables of docs/results.md from the records of runs, so that no figure is copied by hand.

    python benchmarks/results.py artifacts cross-validation ...

Each RUN is a folder in which the pipeline left train/ and evaluate/ (such as artifacts/), or the --out of
`benchmarks/cross_validation.py`.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cross_validation import CrossValidationRecord  # type: ignore[import-not-found]  # beside this script

from dbrnet.benchmark.measurement import table
from dbrnet.errors import UserError
from dbrnet.progress import duration
from dbrnet.records import EvaluationRecord, Provenance, SplitScores, TrainingFacts, TrainRecord, format_value


@dataclass(frozen=True)
class Run:
    """One training, or the folds of one cross-validation, and the scores of the images that were held out."""

    dataset: str
    content_hash: str
    split: str
    leaks: str
    baseline: str  # the nearest neighbour's mIoU
    scores: SplitScores
    trainings: Sequence[TrainingFacts]
    provenance: Provenance

    @classmethod
    def read(cls, folder: Path) -> "Run":
        """The run whose records lie in `folder`; `UserError` where there are none."""
        if (folder / CrossValidationRecord.FILE).exists():
            folds = CrossValidationRecord.load(folder)
            few = "" if folds.groups is None else f", {folds.groups} defective groups a class"
            return cls(
                dataset=folds.dataset,
                content_hash=folds.content_hash,
                split=f"group, {len(folds.folds)} folds{few}",
                leaks="none",
                baseline="",
                scores=folds,
                trainings=[fold.training for fold in folds.folds],
                provenance=folds.folds[0].provenance,
            )
        trained, tested = TrainRecord.load(folder / "train"), EvaluationRecord.load(folder / "evaluate")
        rate = trained.split.leak_rate["test"]
        return cls(
            dataset=trained.dataset.name,
            content_hash=trained.dataset.content_hash,
            split={"groups": "group"}.get(trained.split.kind, trained.split.kind),
            leaks=f"**{format_value(rate, 'share')} LEAK**" if rate else "none",
            baseline=format_value(tested.nn_miou, "share"),
            scores=tested,
            trainings=[trained.training],
            provenance=trained.provenance,
        )

    @property
    def seed(self) -> str:
        """Of the training."""
        return str(self.trainings[0].seed)

    def accuracy(self) -> dict[str, str]:
        """A row of figures with their intervals."""
        return {
            "dataset": self.dataset,
            "split": self.split,
            "test images that leak": self.leaks,
            "seed": self.seed,
            "mIoU with background": str(self.scores.figures["miou"]),
            "over defects": str(self.scores.figures["miou_defects"]),
            "nearest-neighbour baseline": self.baseline,
            "images tested": f"{self.scores.images} in {self.scores.bootstrap.groups} groups",
        }

    def classes(self) -> dict[str, str]:
        """A row of the classes' IoU."""
        shown = (f"{name} {format_value(value, 'share', bare=True)}" for name, value in self.scores.scores.iou.items())
        return {"dataset, split, seed": f"{self.dataset}, {self.split}, {self.seed}", "IoU in %": ", ".join(shown)}

    def origin(self) -> dict[str, str]:
        """A row of what the network learnt from, and how long."""
        first = self.trainings[0]
        seconds = sum(one.seconds for one in self.trainings)
        left_out = sorted({one.left_out for one in self.trainings})
        return {
            "dataset, split, seed": f"{self.dataset}, {self.split}, {self.seed}",
            "content": self.content_hash[:12],
            "commit": (self.provenance.code_revision or "not known")[:7],
            "start": first.start.source if first.start else "random weights",
            "zoom": ", ".join(sorted({f"{one.zoom:g}" for one in self.trainings})),
            "iterations": f"{first.steps}" if len(self.trainings) == 1 else f"{len(self.trainings)} x {first.steps}",
            "disputed images left out": " to ".join(map(str, dict.fromkeys((left_out[0], left_out[-1])))),
            "time": duration(seconds),
        }


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    runs = [Run.read(folder) for folder in parser.parse_args().runs]
    for make in (Run.accuracy, Run.classes, Run.origin):
        print(table([make(run) for run in runs]), end="\n\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
