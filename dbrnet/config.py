"""params.yaml, typed: one section a step. An unknown or ill-typed key is an error that names it.

Every number has a lower and an upper bound, which refuse infinity and NaN too: the error names the bound.
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
from dbrnet.errors import UserError

Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
ScaleFactor = Annotated[float, Field(ge=0.05, le=20)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Side = Annotated[int, Field(ge=32, le=8192)]
Size = tuple[Side, Side]  # height, width
ClassName = Annotated[str, Field(pattern=r"^[\w-]*[^\W\d][\w-]*$", max_length=40)]  # a folder's name, no number

# The branches of a union; pydantic puts their names into an error's location.
_SAME, _BY_CLASS = "<same>", "<by class>"


def _branch(given: object) -> str:
    return _BY_CLASS if isinstance(given, dict) else _SAME


FractionByClass = Annotated[  # the same for every class, or by the class's name
    Annotated[Fraction, Tag(_SAME)] | Annotated[dict[ClassName, Fraction], Tag(_BY_CLASS)], Discriminator(_branch)
]

RuntimeName = Literal[
    "pytorch-eager",
    "pytorch-compiled",
    "pytorch-cudagraph",
    "onnxruntime-cpu",
    "onnxruntime-cuda",
    "onnxruntime-tensorrt",
    "openvino-fp32",
    "openvino-bf16",
    "openvino-int8",
]  # deployment's RUNTIMES


def _sums_to_one(fractions: tuple[float, float, float]) -> tuple[float, float, float]:
    if abs(sum(fractions) - 1) > 1e-6:
        raise ValueError(f"must sum to 1, and these sum to {sum(fractions):g}")
    return fractions


SplitFractions = Annotated[tuple[OpenFraction, OpenFraction, OpenFraction], AfterValidator(_sums_to_one)]


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise ValueError("the first must not exceed the second")
    return bounds


def _first_is_deployed(runtimes: tuple[str, ...]) -> tuple[str, ...]:
    if runtimes[0].startswith("pytorch"):
        raise ValueError("the first is what the line runs, and must take an exported file; pytorch may follow")
    return runtimes


MODEL_NAME = r"^[A-Za-z0-9._-]+$"
NO_PASSWORD = "must not hold a user or a password; put them into ~/.netrc, or into AWS_* for s3://"  # noqa: S105


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IngestParams(_Section):
    """What is read, and from where."""

    dataset: Literal["steel-strip", "neu-seg", "magnetic-tile", "severstal", "factory"]
    source: str = Field(min_length=1)  # a folder, a .zip / .tar(.gz) archive, an http(s) or s3:// address
    mask_threshold: int = Field(127, ge=0, le=254)  # magnetic-tile: a mask pixel above it is defect
    classes: tuple[ClassName, ...] = Field((), max_length=254, validate_default=True)  # factory: ids from 1
    bit_depth: int = Field(16, ge=8, le=16)  # factory: how many bits 16-bit images use
    previous: str | None = Field(None, min_length=1)  # factory: the dataset that the source is a new batch for
    max_quarantine: Fraction = 0.05  # factory: the share of a batch's images that may be unusable

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

    kind: Literal["groups", "random"] = "groups"  # random: near-copies may leak
    fractions: SplitFractions = (0.6, 0.2, 0.2)
    seed: Seed = 0
    previous: str | None = Field(None, min_length=1)  # a split of the dataset's previous state, whose splits stay

    @field_validator("previous")
    @classmethod
    def _previous_by_groups(cls, previous: str | None, info: ValidationInfo) -> str | None:
        if previous is not None and info.data.get("kind") == "random":
            raise ValueError("must be null where kind is random, which knows no groups")
        return previous


class ModelParams(_Section):
    """The switches of the paper's ablation (Table 3) and the named readings of its text."""

    lfem: bool = True
    affm: bool = True
    dcppm: bool = True


class TrainParams(_Section):
    """The recipe. Defaults are the paper's (section 3.2) where it says."""

    seed: Seed = 0
    epochs: int = Field(ge=1, le=100_000)
    batch_size: int = Field(8, ge=1, le=4096)
    defect_free: Fraction = 1.0  # share of the defect-free images that an epoch sees
    normalise_exposure: bool = False  # bring each image to one mean and deviation first, in the exported graph too
    image_size: Size | None = None  # images are resized to it, in the exported graph too; null: native
    crop: Size = (512, 512)
    scale: Annotated[tuple[ScaleFactor, ScaleFactor], AfterValidator(_ascending)] = (0.5, 2.5)
    flip: bool = True
    learning_rate: float = Field(0.01, gt=0, le=10)
    momentum: Fraction = 0.9
    weight_decay: float = Field(5e-4, ge=0, le=1)
    schedule: Literal["linear", "poly"] = "linear"
    warmup_epochs: float = Field(1.0, ge=0, le=100_000)
    ohem_threshold: Fraction = 0.7
    auxiliary_weight: float = Field(1.0, ge=0, le=100)
    ema_decay: OpenFraction | None = None  # null: no averaged weights
    amp: bool = True  # used where the device has it
    workers: int = Field(0, ge=0, le=64)
    checkpoint_seconds: float = Field(60.0, gt=0, le=86_400)
    nodes: int = Field(1, ge=1, le=1000)  # machines of a Kubernetes cluster; without effect on the result
    processes_per_node: int = Field(1, ge=1, le=64)  # GPUs of each of these machines
    model: ModelParams = ModelParams()


class ExportParams(_Section):
    """The exported graph."""

    runtimes: Annotated[tuple[RuntimeName, ...], Field(min_length=1), AfterValidator(_first_is_deployed)] = (
        "onnxruntime-cpu",
    )
    max_int8_loss: Fraction = 0.005  # of mIoU on the val split
    calibration_images: int = Field(64, ge=1, le=100_000)  # images of the train split that set int8's ranges


class FetchChampionParams(_Section):
    """Whom a candidate is compared with."""

    model_name: str = Field(pattern=MODEL_NAME, max_length=200)  # in MLflow's registry


class EvaluateParams(_Section):
    """The report."""

    gallery: int = Field(4, ge=1, le=1000)  # images shown as best, as median and as worst
    min_overlap: Annotated[float, Field(gt=0, le=1)] = 0.5  # share of its pixels that a found defect needs
    boundary_tolerance: Annotated[int, Field(ge=0, le=32)] = 2  # pixels
    confidence: OpenFraction = 0.95  # of the intervals


class BenchmarkParams(_Section):
    """The speed measurement."""

    size: Size  # the deployment resolution
    seconds: float = Field(10.0, gt=0, le=3600)  # for each runtime
    threads: int | None = Field(None, ge=1, le=1024)  # null: all cores


class ParityLimits(_Section):
    """How far a runtime's answers on the test split may lie from PyTorch's in float32."""

    max_logit_difference: float = Field(gt=0, le=1000)
    max_differing_pixels: Fraction  # the share of pixels with another class
    max_miou_loss: Fraction
    max_iou_loss: Fraction  # of any one class


class ParityParams(_Section):
    """By the precision that a runtime computes in."""

    fp32: ParityLimits
    bf16: ParityLimits
    int8: ParityLimits


class PromoteParams(_Section):
    """What a candidate must meet to become champion; null: not asked."""

    mode: Literal["automatic", "review"] = "automatic"  # review: what passes waits for a person
    min_miou: Fraction
    min_iou: FractionByClass | None = None  # of every class, or of those named
    min_defect_recall: Fraction | None = None  # the share of true defects that are found
    max_false_positives: float | None = Field(None, ge=0, le=10_000)  # defects predicted in a defect-free image
    max_miou_loss: Fraction = 0.01  # against the champion: the margin of non-inferiority
    min_fps: float = Field(gt=0, le=100_000)
    max_p99_ms: float | None = Field(None, gt=0, le=600_000)
    fps_hardware: str = Field("any", min_length=1)  # split of the CPU's or GPU's name that these two are for
    min_speed_ratio: float = Field(0.9, gt=0, le=100)  # times as fast as the champion
    allow_leak: bool = False  # whether a model scored on a leaking split may become champion
    parity: ParityParams


class DriftParams(_Section):
    """From where on retraining is warranted."""

    min_new_images: int = Field(default=50, ge=1, le=1_000_000_000)  # labelled images that are new or relabelled
    max_class_shift: Fraction = 0.1  # Jensen-Shannon distance of the class balance
    max_image_drift: Fraction = 0.25  # Kolmogorov-Smirnov distance of an image's feature


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


def load_params(path: Path) -> Params:
    """Read and check params.yaml; a `UserError` names section, key and what is allowed, in one line."""
    try:
        raw = YAML(typ="safe").load(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; give the parameters' file with --params") from None
    except (YAMLError, ValueError) as error:  # ValueError: not UTF-8, no such date, a number of 5000 digits
        raise UserError(f"{path} is not valid YAML: {_problem(error)}") from None
    return _checked(Params, raw, str(path))


def parse_section(name: str, text: str) -> Any:
    """One section of params.yaml, given as text (JSON or YAML); a `UserError` as from `load_params`."""
    section = Params.model_fields[name].annotation
    try:
        raw = YAML(typ="safe").load(text)
    except (YAMLError, ValueError) as error:
        raise UserError(f"the parameter {name} is not valid JSON: {_problem(error)}") from None
    return _checked(cast("type[BaseModel]", section), raw, f"the parameter {name}")


def _problem(error: YAMLError | ValueError) -> str:
    """What is wrong and in which line, without the line itself: it may begin amid a password."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return " ".join(str(error).split())
    mark = error.problem_mark
    words = " ".join(filter(None, [error.context, error.problem]))
    return f"{words}, line {mark.line + 1}, column {mark.column + 1}"


Section = TypeVar("Section", bound=BaseModel)


def _checked(model: type[Section], raw: object, name: str) -> Section:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{name}: {_explain(error, model)}") from None


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    # An unknown key first: it explains why the key it was meant to be is missing.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    where = (
        ".".join(str(split_name) for split_name in first["loc"] if split_name not in (_SAME, _BY_CLASS)) or "the whole"
    )
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(_allowed_keys(model, first["loc"][:-1]))
        return f"{where}: unknown parameter; allowed here: {allowed}{more}"
    if first["type"] == "missing":
        return f"{where}: missing{more}"
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}{more}"


def _allowed_keys(model: type[BaseModel], section: tuple[Any, ...]) -> list[str]:
    for name in section:
        model = cast("type[BaseModel]", model.model_fields[name].annotation)
    return list(model.model_fields)
