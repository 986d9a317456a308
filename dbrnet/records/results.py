"""What was measured of a model: its accuracy and its speed, beside the champion's."""

from dbrnet.records.base import Estimate, Part, Record
from dbrnet.records.lineage import DatasetFacts, Provenance, Scores, SplitFacts


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


class ChampionFacts(Part):
    """Which version the champion is, and why it was not compared, if so."""

    version: int
    sha256: str
    not_compared: str | None = None


class ChampionScores(ChampionFacts):
    """The champion's evaluation, where there is one."""

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


class SplitScores(Part):
    """What was counted on the test split, of the candidate alone."""

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


class EvaluationRecord(Record, SplitScores):
    """metrics.json: the exported model on the test split, in the runtime of production."""

    FILE = "metrics.json"
    STEP = "evaluate"

    runtime: str
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
    """The time of one image in milliseconds, over `runs` runs."""

    runs: int
    mean_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    min_ms: float
    max_ms: float
    fps: float  # the reciprocal of the mean, so that slow runs count


class OfflineFacts(Part):
    """The best throughput of any batch, the batches tried, and why no larger one was."""

    batch: int
    images_per_second: float
    tried: dict[int, float]  # batch -> images a second
    ended: str


class PeakFacts(Part):
    """The highest rates per second that were measured on a device at one precision, and the way."""

    macs: float
    bytes: float
    measured_by: str


class RooflineFacts(Part):
    """The least time for one image on this machine, and its share of the median image's time."""

    arithmetic_ms: float
    memory_ms: float
    peak: PeakFacts
    ms: float  # the longer of the two
    share: float


class WarmUpFacts(Part):
    """The runs before the measurement; `steady`: whether they ended because durations had settled."""

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


class ChampionSpeed(ChampionFacts):
    """The champion's speed, where it was measured."""

    runtime: str | None = None
    compared: ComparedSpeed | None = None


class ComplexityFacts(Part):
    """The cost of one image of height x width.

    - `parameters`: those of the modules that run in eval mode (no auxiliary head), as the paper counts.
    - `conv_macs`: multiply-accumulates of all convolutions, biases not counted.
    - `paper_flops`: the unit of the FLOPs columns of Tables 1 to 4, torchstat's "Total Flops". It counts the
      multiply-accumulates of convolutions with their biases, two per batch norm element, one per ReLU output and one
      per average pool input. ReLUs in residual blocks and heads, additions, resizing, sampling and global means count
      nothing. The unit is close to `conv_macs`, not to twice that.
    """

    height: int
    width: int
    parameters: int
    conv_macs: int
    paper_flops: int


class WorkFacts(Part):
    """The work of a network for one image: multiply-accumulates, and the values that it keeps in memory."""

    macs: int
    weights: int
    activations: int


class MachineState(Part):
    """What the system says of itself while it is measured; text where it does not say."""

    governor: list[str] | str  # the different ones of the cores
    mhz: list[int] | str  # each core's clock
    throttled: int | str  # how often heat has throttled the cores since the start
    load_average: list[float] | str  # over 1, 5 and 15 minutes
    stolen_seconds: float | str  # that a virtual machine's host gave to others, over all cores since the start
    cpu_quota: float | str  # cores whose time the container may use, or "none"
    gpus: list[dict[str, str]]  # under nvidia-smi's names


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
