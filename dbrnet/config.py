"""params.yaml, typed: one section a step. An unknown or ill-typed key is an error that names it.

params.yaml states every key, so no field here has a default: a section only types and bounds its values. Every
number has a lower and an upper bound, which refuse infinity and NaN too, and the error names the bound.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from dbrnet.addresses import holds_password
from dbrnet.bounds import Fraction, OpenFraction, Seed, Size
from dbrnet.errors import UserError
from dbrnet.inference.runtimes import RuntimeName
from dbrnet.records import MatchFacts
from dbrnet.training.recipe import ZOOM_KINDS, Recipe

# A class's name is also a folder's name, and differs from the number of its id.
ClassName = Annotated[str, Field(pattern=r"^[\w-]*[^\W\d][\w-]*$", max_length=40)]
MODEL_NAME = r"^[A-Za-z0-9._-]+$"

# The branches of a union; pydantic puts their names into an error's location.
_SAME, _BY_CLASS = "<same>", "<by class>"
FractionByClass = Annotated[  # the same for every class, or by the class's name
    Annotated[Fraction, Tag(_SAME)] | Annotated[dict[ClassName, Fraction], Tag(_BY_CLASS)],
    Discriminator(lambda given: _BY_CLASS if isinstance(given, dict) else _SAME),
]


def _sums_to_one(fractions: tuple[float, float, float]) -> tuple[float, float, float]:
    if abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"must sum to 1, and these sum to {sum(fractions):g}")
    return fractions


SplitFractions = Annotated[tuple[OpenFraction, OpenFraction, OpenFraction], AfterValidator(_sums_to_one)]


def _first_is_deployed(runtimes: tuple[str, ...]) -> tuple[str, ...]:
    if runtimes[0].startswith("pytorch"):
        raise ValueError("the first is the deployed one, and must take an exported file; pytorch may follow")
    return runtimes


NO_PASSWORD = "must not hold a user or a password; put them into ~/.netrc, or into AWS_* for s3://"  # noqa: S105


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IngestParams(_Section):
    """Which dataset is read, and from where."""

    dataset: Literal["steel-strip", "neu-seg", "magnetic-tile", "severstal", "factory"]
    source: str = Field(min_length=1)  # a folder, a .zip / .tar(.gz) archive, an http(s) or s3:// address
    mask_threshold: int = Field(ge=0, le=254)  # magnetic-tile: a mask pixel above it is defect
    classes: tuple[ClassName, ...] = Field(max_length=254)  # factory: ids from 1
    bit_depth: int = Field(ge=8, le=16)  # factory: how many bits 16-bit images use
    previous: str | None = Field(min_length=1)  # factory: the dataset that the source is a new batch for
    max_quarantine: Fraction  # factory: the share of a batch's images that may be unusable

    @field_validator("source")
    @classmethod
    def _without_password(cls, source: str) -> str:
        if holds_password(source):  # DVC would write it to dvc.lock, and Kubeflow show it
            raise ValueError(NO_PASSWORD)
        return source

    @field_validator("classes")
    @classmethod
    def _belong_to_factory(cls, classes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        own = info.data.get("dataset") == "factory"
        if own and not classes:
            raise ValueError("must name the defects, such as [scratch, dent], where dataset is factory")
        if classes and not own and "dataset" in info.data:
            raise ValueError("must be [] where dataset is not factory: that dataset has its own")
        if len({name.casefold() for name in classes}) < len(classes) or "background" in classes:
            raise ValueError("must differ, also without regard to case, and background is id 0 anyway")
        return classes

    @field_validator("previous")
    @classmethod
    def _previous_of_factory(cls, previous: str | None, info: ValidationInfo) -> str | None:
        if previous is not None and info.data.get("dataset") != "factory":
            raise ValueError("must be null where dataset is not factory")
        return previous


class SplitParams(_Section):
    """How the samples are divided into train, val and test."""

    kind: Literal["groups", "random"]  # random: near-duplicates may cross splits
    fractions: SplitFractions
    seed: Seed
    previous: str | None = Field(min_length=1)  # the split of the previous dataset, whose groups stay in place

    @field_validator("previous")
    @classmethod
    def _previous_by_groups(cls, previous: str | None, info: ValidationInfo) -> str | None:
        if previous is not None and info.data.get("kind") == "random":
            raise ValueError("must be null where kind is random, which knows no groups")
        return previous


class TrainParams(Recipe):
    """The recipe, and what only affects speed and safety: a training may resume with other values of these."""

    workers: int | None = Field(ge=0, le=64)  # loading processes; null: as many as cores beside a GPU, else 0
    checkpoint_seconds: float = Field(gt=0, le=86_400)  # between two checkpoints
    nodes: int = Field(ge=1, le=1000)  # machines of a Kubernetes cluster
    processes_per_node: int = Field(ge=1, le=64)  # GPUs of each of these machines


class ExportParams(_Section):
    """The exported files, and what int8 may cost."""

    runtimes: Annotated[tuple[RuntimeName, ...], Field(min_length=1), AfterValidator(_first_is_deployed)]
    max_int8_loss: Fraction  # of mIoU on the val split
    calibration_images: int = Field(ge=1, le=100_000)  # of the train split; they set int8's ranges


class FetchChampionParams(_Section):
    """Registry model used as the baseline."""

    model_name: str = Field(pattern=MODEL_NAME, max_length=200)  # in MLflow's registry


class EvaluateParams(_Section):
    """When a defect counts as found, and what the report shows."""

    gallery: int = Field(ge=1, le=1000)  # images shown as best, as median and as worst
    min_overlap: float = Field(gt=0, le=1)  # share of its pixels that a found defect needs
    boundary_tolerance: int = Field(ge=0, le=32)  # pixels
    confidence: OpenFraction  # of the intervals

    @property
    def match(self) -> MatchFacts:
        """The rules by which defects are counted."""
        return MatchFacts(min_overlap=self.min_overlap, boundary_tolerance=self.boundary_tolerance)


class BenchmarkParams(_Section):
    """The speed measurement."""

    size: Size  # the deployment resolution
    seconds: float = Field(gt=0, le=3600)  # for each runtime
    threads: int | None = Field(ge=1, le=1024)  # null: all cores


class ParityLimits(_Section):
    """How far a runtime's outputs on the test split may lie from those of PyTorch in float32."""

    max_logit_difference: float = Field(gt=0, le=1000)
    max_differing_pixels: Fraction  # the share of pixels with another class
    max_miou_loss: Fraction
    max_iou_loss: Fraction  # of any one class


class ParityParams(_Section):
    """Limits by the precision that a runtime computes in."""

    fp32: ParityLimits
    bf16: ParityLimits
    int8: ParityLimits


class PromoteParams(_Section):
    """What a candidate must meet to become champion; null: not required."""

    mode: Literal["automatic", "review"]  # review: a passing candidate waits for manual approval
    min_miou: Fraction
    min_iou: FractionByClass | None  # of every class, or of those named
    min_defect_recall: Fraction | None  # the share of true defects that are found
    max_false_positives: float | None = Field(ge=0, le=10_000)  # defects predicted per defect-free image
    max_miou_loss: Fraction  # against the champion: the margin of non-inferiority
    min_fps: float = Field(gt=0, le=100_000)
    max_p99_ms: float | None = Field(gt=0, le=600_000)
    fps_hardware: str = Field(min_length=1)  # part of the CPU's or GPU's name that these two hold for; any: all
    min_speed_ratio: float = Field(gt=0, le=100)  # times as fast as the champion
    allow_leak: bool  # whether a model scored on a leaking split may become champion
    parity: ParityParams


class DriftParams(_Section):
    """Drift thresholds: retraining is warranted from each of them on."""

    min_new_images: int = Field(ge=1, le=1_000_000_000)  # labelled images that are new or relabelled
    max_class_shift: Fraction  # Jensen-Shannon distance of the class balance
    max_image_drift: Fraction  # Kolmogorov-Smirnov distance of an image's feature


class Params(_Section):
    """All of params.yaml."""

    ingest: IngestParams
    split: SplitParams
    train: TrainParams
    export: ExportParams
    fetch_champion: FetchChampionParams
    evaluate: EvaluateParams
    benchmark: BenchmarkParams
    promote: PromoteParams
    drift: DriftParams


Section = TypeVar("Section", bound=BaseModel)


def load_params(path: Path) -> Params:
    """Read and check params.yaml; a `UserError` names section, key and what is allowed, in one line."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the parameters' file with --params") from None
    return _parse(Params, content, str(path), "YAML")


def parse_section(name: str, text: str) -> Any:
    """One section of params.yaml, given as text (JSON or YAML); a `UserError` as from `load_params`."""
    section = cast("type[BaseModel]", Params.model_fields[name].annotation)
    return _parse(section, text.encode(), f"the parameter {name}", "JSON")


def _parse(section: type[Section], content: bytes, name: str, language: str) -> Section:
    try:
        return section.model_validate(YAML(typ="safe").load(content.decode()))
    except ValidationError as error:
        raise UserError(f"{name}: {_explain(error, section)}") from None
    except (YAMLError, ValueError) as error:  # ValueError: not UTF-8, no such date, a number of 5000 digits
        raise UserError(f"{name} is not valid {language}: {_problem(error)}") from None


def _problem(error: YAMLError | ValueError) -> str:
    """What is wrong and in which line, without the line itself: it may begin amid a password."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    words = " ".join(filter(None, [error.context, error.problem]))
    return f"{words}, line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}"


def _explain(error: ValidationError, section: type[BaseModel]) -> str:
    # An unknown key first: it explains why the key it was meant to be is missing.
    first = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    where = ".".join(str(key) for key in first["loc"] if key not in (_SAME, _BY_CLASS, *ZOOM_KINDS)) or "the whole"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        for name in first["loc"][:-1]:
            section = cast("type[BaseModel]", section.model_fields[str(name)].annotation)
        return f"{where}: unknown parameter; allowed here: {', '.join(section.model_fields)}{more}"
    if first["type"] == "missing":
        return f"{where}: missing{more}"
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}{more}"
