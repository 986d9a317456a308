"""Where a model comes from: machine, code, dataset, split, training, exported file, and the champion before it."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import JsonValue

from dbrnet.errors import UserError
from dbrnet.files import write_atomically
from dbrnet.records.base import Part, Record

HISTORY_FILE = "history.csv"  # what the training measured, a row a validation
WEIGHTS_FILE = "model.pt"  # that the train step writes
MODEL_FILE, INT8_FILE = "model.onnx", "model-int8.onnx"  # that the export step writes


class Hardware(Part):
    """The machine: CPU model, cores this process may use, memory in GiB, operating system, accelerators."""

    cpu: str
    cores: int
    memory_gib: float | None
    system: str
    gpus: tuple[str, ...]

    @property
    def processors(self) -> str:
        """The CPU and the GPUs, in words."""
        return ", ".join([self.cpu, *self.gpus])


class Provenance(Part):
    """The code's revision, the libraries' versions by name, and the machine."""

    code_revision: str | None  # None: not known
    versions: dict[str, str]
    hardware: Hardware

    @property
    def libraries(self) -> str:
        """The versions, in words."""
        return ", ".join(f"{name} {version}" for name, version in self.versions.items())


class DataRevision(Part):
    """What DVC knows of a dataset; None where it does not."""

    dataset: str | None = None  # the folder's hash
    source: str | None = None
    source_hash: str | None = None
    source_revision: str | None = None  # the public commit of an import

    @property
    def known(self) -> dict[str, str]:
        """The fields that are known, by name."""
        return self.model_dump(exclude_none=True)


class DatasetFacts(Part):
    """The dataset that a model was trained on."""

    name: str
    title: str
    content_hash: str
    images: int
    groups: int
    images_by_class: dict[str, int]
    dvc: DataRevision


class SplitCounts(Part):
    """What one split holds. `images_by_class` counts the defect-free images as the background's."""

    images: int
    groups: int
    images_by_class: dict[str, int]


class SplitFacts(Part):
    """The split that a model was trained on; `sha256` is that of split.csv."""

    kind: str
    seed: int
    leaks: Literal["no", "yes"]
    leak_rate: dict[str, float]
    leak_note: str
    sha256: str
    counts: dict[str, SplitCounts]

    @property
    def text(self) -> str:
        """Such as "groups, seed 0"."""
        return f"{self.kind}, seed {self.seed}"


class Scores(Part):
    """Scores over a set of images, each a fraction; None where there is nothing to divide by.

    The keys of the mappings are class names in the order of the ids, the background first.
    """

    miou: float  # mean IoU with the background, as the paper counts it (section 3.1)
    miou_defects: float | None  # mean IoU without the background; None: no defect present or predicted
    pixel_accuracy: float
    iou: dict[str, float | None]  # None: the class is absent
    f1: dict[str, float | None]  # None: the class is absent
    precision: dict[str, float | None]  # None: never predicted
    recall: dict[str, float | None]  # None: not in the ground truth
    absent: tuple[str, ...]  # classes neither in the ground truth nor predicted, left out of the means


class AuditRecord(Record):
    """audit.json: near-duplicates, what they mean for the splits, and the nearest-neighbour baseline."""

    FILE = "audit.json"
    STEP = "split"

    content_hash: str
    images: int
    groups: int
    groups_by_name: int
    group_sizes: dict[int, int]  # members -> groups
    links: dict[str, int]  # kind of evidence -> links
    repeatability: Scores | None
    leaking: dict[str, int]  # split -> images whose group is in train too
    splits: dict[str, int]  # split -> images
    nn_baseline: Scores | None  # None: no splits were given
    method: str
    labelled_differently: int  # pairs of images


class StartFacts(Part):
    """The weights that a training started from; `sha256` is that of their file."""

    source: str
    sha256: str


class TrainingFacts(Part):
    """How a network was trained; `params` is the section train of params.yaml."""

    seed: int
    steps: int
    params: dict[str, JsonValue]
    start: StartFacts | None  # None: random weights
    chosen_step: int  # whose weights were kept: the last, as a rule
    val_miou: float  # of these weights
    zoom: float
    left_out: int  # images of the train split whose labels the audit disputes
    seconds: float
    device: str
    processes: int
    warnings: tuple[str, ...]  # such as that no defect was found for long

    @property
    def text(self) -> str:
        """Such as "seed 0, from random weights, weights of iteration 480 of 480"."""
        start = f"from {self.start.source if self.start else 'random weights'}"
        kept = f"weights of iteration {self.chosen_step} of {self.steps}"
        left_out = f", {self.left_out} images with disputed labels left out" if self.left_out else ""
        return f"seed {self.seed}, {start}, {kept}{left_out}"


class TrainRecord(Record):
    """train.json: the lineage that later steps carry on."""

    FILE = "train.json"
    STEP = "train"

    dataset: DatasetFacts
    split: SplitFacts
    provenance: Provenance
    training: TrainingFacts
    run_id: str
    missing_steps: tuple[int, ...]  # of the validations that MLflow did not take


class PretrainRecord(Record):
    """pretrain.json, beside the weights: how they were made from generated images."""

    FILE = "pretrain.json"
    STEP = "pretrain"
    WEIGHTS: ClassVar[str] = "pretrained.safetensors"

    sha256: str  # of the weights' file
    seed: int
    steps: int
    val_miou: float  # on generated images
    seconds: float
    device: str
    provenance: Provenance


class RunNote(Record):
    """run.json, beside a checkpoint: the MLflow run that a training goes on with after a kill."""

    FILE = "run.json"
    STEP = "train"

    fingerprint: str
    given: str | None  # by MLFLOW_RUN_ID
    params: dict[str, JsonValue]
    run_id: str


class Int8Facts(Part):
    """The quantized file, by mIoU on the val split."""

    miou: float  # of the file in float32
    loss_of_all: float  # by all convolutions in int8
    loss: float  # by the file as written
    kept: tuple[str, ...]  # convolutions left in higher precision
    convolutions: int
    max_loss: float
    sha256: str


class ExportRecord(Record):
    """export.json: the exported files, and the runtimes that they are for."""

    FILE = "export.json"
    STEP = "export"

    runtimes: tuple[str, ...]
    model_file: str
    model_sha256: str
    bytes: int
    opset: int
    batch_norms_left: int
    int8: Int8Facts | None
    no_int8: str | None  # why there is no file in int8
    dataset: DatasetFacts
    split: SplitFacts
    provenance: Provenance

    @property
    def deployed(self) -> str:
        """The runtime of production, whose figures decide."""
        return self.runtimes[0]


class ChampionRecord(Record):
    """champion.json: the registry's model that a candidate is compared with; None: there is none yet."""

    FILE = "champion.json"
    STEP = "fetch-champion"

    model_name: str
    version: int | None
    sha256: str | None
    since: str | None  # ISO
    lineage: TrainRecord | None


def write_history(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write history.csv; a row holds a validation's figures by name, and lacks those that do not exist."""
    text = io.StringIO()
    columns = dict.fromkeys(column for row in rows for column in row)
    writer = csv.DictWriter(text, list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(folder / HISTORY_FILE, text.getvalue())


def read_history(folder: Path) -> list[dict[str, float]]:
    """The rows of history.csv in the folder that the train step wrote; none where there is no such file."""
    try:
        with (folder / HISTORY_FILE).open(newline="") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    except FileNotFoundError:
        raise UserError(f"{folder / HISTORY_FILE} does not exist; run `dbrnet train` first") from None
