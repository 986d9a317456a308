"""What the steps hand to each other: a typed, versioned record for each JSON file that a step writes.

Whoever reads a step's file loads its record; the files' keys are known here alone. Fractions are stored as
fractions, from 0 to 1; `Estimate` and `format_value` write them for people.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from dbrnet.errors import UserError
from dbrnet.files import read_json, write_atomically, write_json

SCHEMA_VERSION = 1  # of all records: raised with any change to their fields
HISTORY_FILE = "history.csv"  # what the training measured, a row an epoch
MISSING = "–"

Unit = Literal["share", "points", "count", "difference", "ratio", "fps", "ms", "number"]
Answer = Literal["promoted", "rejected", "needs review"]
Mode = Literal["automatic", "review"]
Verdict = Literal["passed", "failed", "inconclusive", "not measured"]
Topic = Literal["accuracy", "speed", "parity", "data"]
Direction = Literal["at least", "at most"]


class _Format(NamedTuple):
    scale: float
    spec: str  # of the number, without its digits
    digits: int
    suffix: str = ""


_FORMATS: dict[Unit, _Format] = {
    "share": _Format(100, "f", 1, " %"),
    "points": _Format(100, "+f", 1, " points"),  # the difference of two shares
    "count": _Format(1, "f", 2),
    "difference": _Format(1, "+f", 2),  # of two counts
    "ratio": _Format(1, "f", 2),
    "fps": _Format(1, "f", 1),
    "ms": _Format(1, "f", 1),
    "number": _Format(1, "g", 4),
}


def format_value(value: float | None, unit: Unit, *, bare: bool = False, extra: int = 0) -> str:
    """The one form of numbers for people: percent with one decimal, "–" where there is none.

    `bare` leaves the unit out, for tables that name it in the heading. `extra` digits tell close values apart.
    """
    if value is None:
        return MISSING
    scale, spec, digits, suffix = _FORMATS[unit]
    sign, kind = spec[:-1], spec[-1]
    scaled = scale * value
    text = f"{scaled:{sign}.{digits + extra}{kind}}"
    if kind == "f" and scaled and not float(text):
        text = f"{scaled:{sign}.2g}"  # as "0.0" it would read as nothing at all
    if not float(text):
        text = text.lstrip("+-")
    return text.replace("-", "−") + ("" if bare else suffix)


class Part(BaseModel):
    """What a record consists of: immutable, without unknown fields, infinity or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(Part):
    """A figure with its confidence interval.

    The value is None where it is undefined or was not measured, the interval where the data do not suffice.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    unit: Unit = "number"

    @property
    def interval(self) -> str:
        """Such as "74.5 to 76.9", without the unit; empty where there is none."""
        return self._interval(0)

    def text(self, *, bare: bool = False, extra: int = 0) -> str:
        """Such as "75.7 % (74.5 to 76.9)"; `bare` and `extra` as in `format_value`."""
        value, interval = format_value(self.value, self.unit, bare=bare, extra=extra), self._interval(extra)
        return f"{value} ({interval})" if interval else value

    def _interval(self, extra: int) -> str:
        if self.low is None or self.high is None:
            return ""
        low, high = (format_value(end, self.unit, bare=True, extra=extra) for end in (self.low, self.high))
        return f"{low} to {high}"

    def __str__(self) -> str:
        return self.text()


class Record(Part):
    """One JSON file of a step's folder. Raised errors are one line and name the step to run."""

    FILE: ClassVar[str]
    STEP: ClassVar[str]

    schema_version: int = SCHEMA_VERSION

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The record in the folder that the step wrote. Raises `UserError` as `read` does."""
        return cls.read(folder / cls.FILE)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in the file `path`; `UserError` where it is missing, broken, foreign or of another version."""
        again = f"run `dbrnet {cls.STEP}` again"
        version = read_json(path).get("schema_version")
        if version != SCHEMA_VERSION:
            raise UserError(f"{path} has schema version {version}, and this dbrnet reads {SCHEMA_VERSION}; {again}")
        try:
            return cls.model_validate_json(path.read_bytes(), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            reason = f"{place}: {first['msg']}" if place else first["msg"]
            raise UserError(f"{path} is not what `dbrnet {cls.STEP}` writes ({reason}); {again}") from None

    def save(self, folder: Path) -> None:
        """Write the record's file into `folder`, atomically."""
        write_json(folder / self.FILE, self.model_dump(mode="json"))


# What every step writes: where its figures come from.


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


class TrainingFacts(Part):
    """How a network was trained; `params` is the section train of params.yaml."""

    seed: int
    epochs: int
    params: dict[str, JsonValue]
    best_epoch: int
    best_val_miou: float
    seconds: float
    device: str
    processes: int


class TrainRecord(Record):
    """train.json: the lineage that later steps carry on."""

    FILE = "train.json"
    STEP = "train"

    dataset: DatasetFacts
    split: SplitFacts
    provenance: Provenance
    training: TrainingFacts
    run_id: str
    missing_epochs: tuple[int, ...]  # that MLflow did not take


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


class Bootstrap(Part):
    """How the intervals were made: by resampling groups of images."""

    resamples: int
    confidence: float
    groups: int
    seed: int


class DefectTally(Part):
    """Connected defects of one class or of one size; None: not counted by size."""

    true: int
    found: int
    predicted: int | None = None
    correct: int | None = None


class DefectTable(Part):
    """Connected defects by class and by size."""

    by_class: dict[str, DefectTally]
    by_size: dict[str, DefectTally]


class MatchFacts(Part):
    """When a defect counts as found, and an outline as met (pixels)."""

    min_overlap: float
    boundary_tolerance: int


class ComparedScores(Part):
    """The champion on the same images, and the candidate's figures minus its own."""

    runtime: str
    seen: float | None  # share of the test images that it was trained on; None: not known
    scores: Scores
    figures: dict[str, Estimate]
    defects: DefectTable
    difference: dict[str, Estimate]


class ChampionScores(Part):
    """The champion's evaluation, or why there is none."""

    version: int
    sha256: str
    not_compared: str | None = None
    compared: ComparedScores | None = None


class DisagreementFacts(Part):
    """An image that candidate and champion answer differently; `panels`: caption -> file in the step's folder."""

    id: str
    group: str
    change: float  # share of the image's pixels that the champion alone gets wrong, minus the candidate's
    candidate_iou: float | None
    champion_iou: float | None
    panels: dict[str, str]


class RuntimeParity(Part):
    """How far a runtime's answers lie from PyTorch's in float32."""

    precision: str
    images: int
    miou: float
    miou_defects: float | None
    iou: dict[str, float | None]
    miou_change: float
    iou_change: dict[str, float | None]  # None: the class is absent from one of the two
    max_logit_difference: float | None  # None: not finite
    differing_pixels: float


class EvaluationRecord(Record):
    """metrics.json: the exported model on the test split, in the runtime of production."""

    FILE = "metrics.json"
    STEP = "evaluate"

    runtime: str
    scores: Scores
    figures: dict[str, Estimate]
    bootstrap: Bootstrap
    match: MatchFacts
    defects: DefectTable
    confusion: tuple[tuple[int, ...], ...]  # [C, C], rows: ground truth
    images: int
    images_by_class: dict[str, int]
    defect_free: int
    false_positives: int  # defect-free images with something flagged
    defective: int
    missed: int  # defective images with nothing flagged
    champion: ChampionScores | None
    disagreements: tuple[DisagreementFacts, ...]
    colors: dict[str, tuple[int, int, int]]  # RGB, of the defect classes
    runtimes: dict[str, RuntimeParity]
    not_available: dict[str, str]  # runtime -> why
    model_sha256: str
    dataset: DatasetFacts
    split: SplitFacts
    nn_baseline: Scores | None  # of copying the nearest training image's mask
    provenance: Provenance

    @property
    def nn_miou(self) -> float | None:
        """The mIoU of the nearest-neighbour baseline."""
        return self.nn_baseline.miou if self.nn_baseline else None

    @property
    def compared(self) -> ComparedScores | None:
        """The champion's scores, where both were scored."""
        return self.champion.compared if self.champion else None


class LatencyFacts(Part):
    """Single images' durations in milliseconds."""

    runs: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    max_ms: float
    fps: float


class OfflineFacts(Part):
    """The best throughput of any batch; `tried`: batch -> images a second."""

    batch: int
    images_per_second: float
    tried: dict[int, float]
    ended: str


class PeakFacts(Part):
    """Multiply-accumulates and bytes that the machine does a second."""

    macs: float
    bytes: float
    measured_by: str


class RooflineFacts(Part):
    """The least time for one image on this machine, and its share of the median image's time."""

    arithmetic_ms: float
    memory_ms: float
    peak: PeakFacts
    ms: float
    share: float


class WarmUpFacts(Part):
    """The runs before the measurement."""

    runs: int
    seconds: float
    steady: bool


class RuntimeSpeed(LatencyFacts):
    """One runtime's speed, from the image in memory to the answer in memory."""

    precision: str
    device: str
    threads: int
    batch: int
    end_to_end: LatencyFacts  # from the encoded file to the encoded mask
    offline: OfflineFacts | None
    roofline: RooflineFacts | str  # the reason where there is none
    warm_up: WarmUpFacts
    block_spread: float


class ComparedSpeed(Part):
    """Another model in the same runtime, measured in turns with this one."""

    speed: RuntimeSpeed
    times_as_fast: Estimate  # this model, as a multiple of the other
    pairs: int  # of blocks


class AgainstSpeed(Part):
    """The model that --against names, by runtime."""

    model: str
    sha256: str
    runtimes: dict[str, ComparedSpeed]


class ChampionSpeed(Part):
    """The champion's speed, or why there is none."""

    version: int
    sha256: str
    not_compared: str | None = None
    runtime: str | None = None
    compared: ComparedSpeed | None = None


class ComplexityFacts(Part):
    """The cost of one image of height x width, see `models.complexity`."""

    height: int
    width: int
    parameters: int
    conv_macs: int
    paper_flops: int


class WorkFacts(Part):
    """Multiply-accumulates and values in memory for one image."""

    macs: int
    weights: int
    activations: int


class MachineState(Part):
    """What the system says of itself while it is measured; text where it does not say."""

    governor: list[str] | str
    mhz: list[int] | str
    throttled: int | str
    load_average: list[float] | str
    stolen_seconds: float | str
    cpu_quota: float | str
    gpus: list[dict[str, str]]


class MachineStates(Part):
    """Before and after the measurement."""

    start: MachineState
    end: MachineState


class BenchmarkRecord(Record):
    """benchmark.json: the speed of one image on this machine, by runtime."""

    FILE = "benchmark.json"
    STEP = "benchmark"

    runtimes: dict[str, RuntimeSpeed]
    not_available: dict[str, str]
    against: AgainstSpeed | None
    champion: ChampionSpeed | None
    size: tuple[int, int]  # height, width
    batch: int
    threads: int
    images: int
    complexity: ComplexityFacts
    work: WorkFacts
    machine: MachineStates
    noise: str | None
    model_sha256: str
    provenance: Provenance

    @property
    def compared(self) -> ComparedSpeed | None:
        """The champion's speed, where both were timed."""
        return self.champion.compared if self.champion else None


class Criterion(Part):
    """One figure held against its threshold. `name` is the figure's, `label` says it to a reader."""

    name: str
    label: str
    topic: Topic
    figure: Estimate
    threshold: float  # in the figure's unit
    direction: Direction
    verdict: Verdict
    figure_text: str  # such as "75.7 % (74.5 to 76.9)", in digits that tell it from the threshold
    threshold_text: str
    text: str  # both in a sentence


class Decision(Part):
    """The gate's answer, why it is not a promotion, and every criterion."""

    answer: Answer
    mode: Mode
    reasons: tuple[str, ...]
    criteria: tuple[Criterion, ...]


class Promotion(Part):
    """What became of a candidate: its version, and who was champion before and after."""

    answer: Answer
    model_name: str
    version: int
    champion_before: int | None
    champion_after: int | None
    champion_now: int | None  # differs from champion_after where an earlier decision is reported again
    challenger: int | None
    reasons: tuple[str, ...]
    entry: int  # its number in the ledger
    time: str  # ISO, by the store's clock
    by: str


class DecisionRecord(Record, Decision):
    """decision.json: what the gate decided, and what became of it in the registry."""

    FILE = "decision.json"
    STEP = "promote"

    promotion: Promotion
    run_id: str
    provenance: Provenance


class ShiftFacts(Part):
    """A distance, what chance alone reaches, and the groups of the champion's and of the new images."""

    distance: float
    chance: float
    groups: tuple[int, int]


class DriftCheck(Part):
    """One figure held against its threshold; None: there was nothing to measure it on."""

    name: str
    figure: float | None
    threshold: float
    warrants: bool  # retraining
    text: str
    shift: ShiftFacts | None = None
    before: float | dict[str, float] | None = None  # a feature's mean, or each class's share
    now: float | dict[str, float] | None = None


class DriftImages(Part):
    """How many images were compared."""

    reference: int
    reference_groups: int
    known: int
    relabelled: int | None
    new: int
    new_groups: int


class DriftRecord(Record):
    """drift.json: whether retraining is warranted, with each reason, its figure and its threshold."""

    FILE = "drift.json"
    STEP = "drift"

    answer: Literal["yes", "no"]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    checks: tuple[DriftCheck, ...]
    images: DriftImages | None  # None: nothing was compared
    unusable: tuple[str, ...]
    reference: str | None  # the champion's dataset, by content hash
    reference_name: str | None
    current: str  # the folder
    content_hash: str | None
    model_name: str
    model_version: int | None
    model_sha256: str | None
    model_metadata: dict[str, str]  # what the exported file says of its making
    params: dict[str, JsonValue]
    provenance: Provenance


def write_history(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Write history.csv; a row holds an epoch's figures by name, and lacks those that do not exist."""
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


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with keys such as "model.lfem"."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
