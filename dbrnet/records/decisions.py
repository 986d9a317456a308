"""What is decided: the gate's answer on a candidate, and whether drift warrants retraining."""

from typing import Literal

from pydantic import Field, JsonValue

from dbrnet.records.base import Estimate, Part, Record
from dbrnet.records.lineage import Provenance

Answer = Literal["promoted", "rejected", "needs review"]
Mode = Literal["automatic", "review"]
Verdict = Literal["passed", "failed", "inconclusive", "not measured"]
Topic = Literal["accuracy", "speed", "parity", "data"]
Direction = Literal["at least", "at most"]


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
    """The distance of two distributions, 0 to 1, and the groups of the champion's and of the new images."""

    distance: float
    chance: float  # what unchanged data rarely exceed; 1 where any distance may be chance
    groups: tuple[int, int]


class DriftCheck(Part):
    """One figure held against its threshold; None: there was nothing to measure it on."""

    name: str
    figure: float | None
    threshold: float  # of a shift: the larger of the parameter and of the chance bound
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


class DriftComparison(Part):
    """The reasons for a retraining and what they rest on; the defaults where nothing could be compared."""

    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    checks: tuple[DriftCheck, ...] = ()
    images: DriftImages | None = None
    unusable: tuple[str, ...] = ()
    reference: str | None = None  # the champion's dataset, by content hash
    reference_name: str | None = None
    content_hash: str | None = None
    model_metadata: dict[str, str] = Field(default_factory=dict)  # what the exported file says of its making


class DriftRecord(Record, DriftComparison):
    """drift.json: whether retraining is warranted, with each reason, its figure and its threshold."""

    FILE = "drift.json"
    STEP = "drift"

    answer: Literal["yes", "no"]
    current: str  # the folder
    model_name: str
    model_version: int | None
    model_sha256: str | None
    params: dict[str, JsonValue]
    provenance: Provenance
