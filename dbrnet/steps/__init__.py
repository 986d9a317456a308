"""The registry of steps, from which the command line, the Kubeflow components and the pipelines are made.

A step is a function in the module of its name. It takes one section of params.yaml and the folders that earlier
steps wrote, and writes one folder. To add an input: name it here, take it in the function, pass it in dvc.yaml.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Option:
    """An argument of a step that is not a folder of an earlier step: `--NAME VALUE`."""

    name: str
    help: str
    type: type = str
    required: bool = False


@dataclass(frozen=True)
class Step:
    """What a step is called, reads and writes. Inputs have the name that the step which writes them calls `out`."""

    name: str  # of the command, of the stage in dvc.yaml and of the Kubeflow task
    help: str
    examples: tuple[str, ...]  # command lines, beside `command_line()`
    out: str = ""  # what others call the folder that it writes; empty: it writes none
    folder: str = ""  # where dvc.yaml has it write
    inputs: tuple[str, ...] = ()
    optional_inputs: tuple[str, ...] = ()
    options: tuple[Option, ...] = ()
    params: str = ""  # the section of params.yaml that it takes, where its name is not the step's
    module: str = ""  # the module that holds its function, where it is not the one of its name
    is_stage: bool = True  # of dvc.yaml

    @property
    def identifier(self) -> str:
        """The name in Python: of the module, the function and the component."""
        return self.name.replace("-", "_")

    @property
    def section(self) -> str:
        """The section of params.yaml that it takes."""
        return self.params or self.identifier

    @property
    def paths(self) -> set[str]:
        """The names of the arguments that are paths."""
        return {*self.inputs, *self.optional_inputs, "out", *(one.name for one in self.options if one.type is Path)}

    @property
    def location(self) -> str:
        """The full name of the module that holds its function."""
        return f"dbrnet.{self.module or f'steps.{self.identifier}'}"

    def function(self) -> Callable[..., Any]:
        """The step itself: `function(section, **arguments)`. Imports its module, which may take seconds."""
        function: Callable[..., Any] = getattr(importlib.import_module(self.location), self.identifier)
        return function

    def command_line(self, folders: Mapping[str, str] | None = None) -> str:
        """The command that runs it, as in dvc.yaml; `folders`, by what they hold, stand in for dvc.yaml's."""
        earlier = STEPS[: STEPS.index(self)] if self in STEPS else STEPS
        known = {step.out: step.folder for step in earlier} | dict(folders or {})
        given = [f"--{name} {known[name]}" for name in self.optional_inputs if name in known]
        out = [f"--out {(folders or {}).get(self.out, self.folder)}"] if self.out else []
        return " ".join([f"dbrnet {self.name}", *(known[name] for name in self.inputs), *given, *out])


STEPS = (
    Step(
        "ingest",
        "read a dataset from a folder, an archive, a URL or S3 into one canonical form",
        ("dbrnet ingest --params line-2.yaml --out data/line-2",),
        out="dataset",
        folder="data/dataset",
    ),
    Step(
        "split",
        "divide the samples into train, val and test so that near-duplicates stay together",
        ("dbrnet split data/dataset --champion artifacts/champion --out data/split",),
        out="split",
        folder="data/split",
        inputs=("dataset",),
        optional_inputs=("champion",),
    ),
    Step(
        "train",
        "train DBRNet; killed and started again, it resumes from its last checkpoint",
        ("torchrun --nproc-per-node 2 -m dbrnet train data/dataset data/split --out artifacts/train",),
        out="trained",
        folder="artifacts/train",
        inputs=("dataset", "split"),
        options=(
            Option(
                "checkpoints",
                "where to keep checkpoints, each training its own (default: a hidden folder beside --out)",
                Path,
            ),
        ),
    ),
    Step(
        "export",
        "write the trained network as an ONNX file, and as another in int8",
        ("dbrnet export data/dataset data/split artifacts/train --params edge.yaml --out artifacts/edge",),
        out="exported",
        folder="artifacts/export",
        inputs=("dataset", "split", "trained"),
    ),
    Step(
        "fetch-champion",
        "fetch the champion that a candidate is compared with, and what it was trained on",
        ("dbrnet fetch-champion --out artifacts/champion",),
        out="champion",
        folder="artifacts/champion",
        optional_inputs=("exported",),
    ),
    Step(
        "evaluate",
        "score the exported model on the test split and write the HTML report",
        (
            "dbrnet evaluate data/dataset data/split artifacts/train artifacts/export artifacts/champion "
            "--params strict.yaml --out artifacts/evaluate-strict",
        ),
        out="evaluated",
        folder="artifacts/evaluate",
        inputs=("dataset", "split", "trained", "exported", "champion"),
    ),
    Step(
        "benchmark",
        "measure the model's speed on this machine, in every runtime that it has",
        (
            "dbrnet benchmark data/dataset data/split artifacts/train artifacts/export artifacts/champion "
            "artifacts/evaluate --against other.onnx --out artifacts/benchmark-other",
        ),
        out="benchmarked",
        folder="artifacts/benchmark",
        inputs=("dataset", "split", "trained", "exported", "champion", "evaluated"),
        options=(
            Option("against", "another model to compare with: a model.pt, an exported .onnx, or models:/NAME@ALIAS"),
        ),
    ),
    Step(
        "promote",
        "decide by the thresholds, register the model, and make it champion if it passes",
        (
            "dbrnet promote data/dataset data/split artifacts/train artifacts/export artifacts/champion "
            "artifacts/evaluate artifacts/benchmark --params strict.yaml --out artifacts/promote",
        ),
        out="decision",
        folder="artifacts/promote",
        inputs=("dataset", "split", "trained", "exported", "champion", "evaluated", "benchmarked"),
    ),
    Step(
        "drift",
        "answer whether new data warrant retraining the champion: yes or no, with reasons",
        ("dbrnet drift new-images/ artifacts/champion --out artifacts/drift-new",),
        out="drifted",
        folder="artifacts/drift",
        inputs=("dataset", "champion"),
        is_stage=False,  # it asks whether to run the others
    ),
)
STAGES = tuple(step for step in STEPS if step.is_stage)
# What a scheduled pipeline runs beside the steps: like them by a section of params.yaml, but without a folder to write.
TASKS = (
    Step(
        "revision",
        "tell whether the data's source has changed, without reading it",
        ("dbrnet revision --params line-2.yaml",),
        params="ingest",
        module="steps.ingest",
        is_stage=False,
    ),
    Step(
        "notify",
        "tell a webhook how a scheduled run ended, and who is champion",
        (
            "dbrnet notify --run dbrnet-retraining --state SUCCEEDED",
            "dbrnet notify --run dbrnet-retraining --state FAILED --error 'train: no space left'",
        ),
        options=(
            Option("run", "what ran, such as the name of a pipeline", required=True),
            Option("state", "how it ended, such as SUCCEEDED or FAILED", required=True),
            Option("error", "what went wrong, if anything did"),
        ),
        params="fetch_champion",
        module="commands.notify",
        is_stage=False,
    ),
)
BY_NAME = {step.name: step for step in (*STEPS, *TASKS)}
