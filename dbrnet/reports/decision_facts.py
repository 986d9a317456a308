"""The facts of one decision, candidate and champion in rows, and what follows from them in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dbrnet.evaluation.defect_metrics import SIZES
from dbrnet.records import (
    BenchmarkRecord,
    ChampionRecord,
    ComparedScores,
    Decision,
    DefectTally,
    Estimate,
    EvaluationRecord,
    Promotion,
    TrainRecord,
    format_value,
)
from dbrnet.reports.html import leak_statement

LISTED = 6  # names in a sentence
SHOWN_REASONS = 2  # in the sentence; the criteria list them all
FEW_GROUPS = 50  # in the test split: below, the intervals are wide and themselves uncertain
FEW_IMAGES = 30  # of a class in the train split
LOW_RECALL = 0.8  # of the defects of a size or a class
NOT_KNOWN = Estimate(value=None)
OVERALL = {
    "miou": "mIoU",
    "miou_defects": "mIoU, defects only",
    "pixel_accuracy": "pixel accuracy",
    "defect_recall": "defects found",
    "defect_precision": "predicted defects that are correct",
    "boundary_f1": "boundary F1",
    "false_positives": "false positives per defect-free image",
    "flagged_share": "defect-free images flagged",
}
LESS_IS_BETTER = {"false_positives", "flagged_share"}

Reading = Literal["better", "worse", "same", "unclear", ""]


@dataclass(frozen=True)
class Facts:
    """All that is known when a decision is written down."""

    decision: Decision
    promotion: Promotion
    evaluation: EvaluationRecord
    benchmark: BenchmarkRecord
    train: TrainRecord  # the candidate's lineage
    champion: ChampionRecord
    settings: Mapping[str, object]  # the section promote of params.yaml
    evaluated: Path  # the folder in which the panels of the disagreements lie
    durations: Path  # the benchmark's durations.csv
    links: Mapping[str, str]  # label -> where more is found

    @property
    def name(self) -> str:
        """The candidate in words."""
        return f"{self.promotion.model_name} version {self.promotion.version}"

    @property
    def compared(self) -> ComparedScores | None:
        """The champion's scores on the same images, where both were scored."""
        return self.evaluation.compared

    @property
    def machine(self) -> str:
        """The machine of the benchmark, its images and its threads."""
        benchmark = self.benchmark
        hardware, (height, width) = benchmark.provenance.hardware, benchmark.size
        return (
            f"{hardware.processors}, {hardware.cores} cores, {benchmark.threads} threads, "
            f"one image of {height} × {width} pixels at a time"
        )

    @property
    def classes(self) -> list[str]:
        """The defects' names, without the background."""
        return list(self.evaluation.scores.iou)[1:]

    def figure(self, name: str) -> Estimate:
        """A figure of the candidate."""
        return self.evaluation.figures.get(name, NOT_KNOWN)

    def champion_figure(self, name: str) -> Estimate:
        """The champion's, on the same images."""
        return self.compared.figures.get(name, NOT_KNOWN) if self.compared else NOT_KNOWN

    def difference(self, name: str) -> Estimate:
        """Candidate minus champion, paired by groups."""
        return self.compared.difference.get(name, NOT_KNOWN) if self.compared else NOT_KNOWN


@dataclass(frozen=True)
class Comparison:
    """A row: both sides' figures and their difference."""

    key: str  # the figure's
    label: str  # in its table
    name: str  # in a sentence
    candidate: Estimate
    champion: Estimate
    difference: Estimate
    counts: str = ""  # such as "41 of 57 found", the candidate's; "" where nothing is counted

    @property
    def improvement(self) -> Estimate:
        """The difference with the better side above 0."""
        if self.key not in LESS_IS_BETTER:
            return self.difference
        own = self.difference
        value, low, high = (None if end is None else -end for end in (own.value, own.high, own.low))
        return Estimate(value=value, low=low, high=high, unit=own.unit)

    @property
    def reads(self) -> Reading:
        """The difference in a word; unclear where its interval holds 0, "" where it has none."""
        low, high = self.improvement.low, self.improvement.high
        if low is None or high is None:
            return ""
        if low == high == 0:
            return "same"
        if low <= 0 <= high:
            return "unclear"
        return "better" if low > 0 else "worse"


def overall(facts: Facts) -> list[Comparison]:
    """The figures of the whole test split; those that were not measured on either side are left out."""
    rows = [_row(facts, name, label, label) for name, label in OVERALL.items()]
    return [row for row in rows if row.candidate.value is not None or row.champion.value is not None]


def by_class(facts: Facts, figure: str, name: str) -> list[Comparison]:
    """`figure` (iou, boundary_f1, defect_recall/class) of each class; `name` such as "IoU of {}"."""
    counted = facts.evaluation.defects.by_class if figure == "defect_recall/class" else {}
    return [_row(facts, f"{figure}/{label}", label, name.format(label), counted.get(label)) for label in facts.classes]


def by_size(facts: Facts) -> list[Comparison]:
    """The recall of small, medium and large defects."""
    counted = facts.evaluation.defects.by_size
    return [
        _row(facts, f"defect_recall/size/{size}", size, f"{size} defects found", counted.get(size)) for size in SIZES
    ]


def _row(facts: Facts, key: str, label: str, name: str, counted: DefectTally | None = None) -> Comparison:
    figures = facts.figure(key), facts.champion_figure(key), facts.difference(key)
    return Comparison(key, label, name, *figures, f"{counted.found} of {counted.true} found" if counted else "")


@dataclass(frozen=True)
class Verdict:
    """The outcome as the page's first words; `kind` is its style, one of four."""

    kind: str  # promoted | rejected | review | superseded
    word: str
    why: str
    now: str  # who is champion after it


def verdict(facts: Facts) -> Verdict:
    """What became of the candidate, why in one sentence, and who is champion now."""
    promotion, criteria, gate = facts.promotion, facts.decision.criteria, facts.decision.answer
    version, before, champion = promotion.version, promotion.champion_before, promotion.champion_now
    now = "There is no champion." if champion is None else f"Champion now: version {champion}."
    if before == champion == version:
        now = f"Version {version} is the champion already and stays."
    reasons = "; ".join(promotion.reasons[:SHOWN_REASONS])
    if (more := len(promotion.reasons) - SHOWN_REASONS) > 0:
        reasons += f"; and {more} more"
    met = f"All {len(criteria)} criteria are met" if gate == "promoted" else "No criterion failed"
    if promotion.answer == "rejected" and gate != "rejected":  # the champion changed, or it was revoked
        return Verdict("superseded", "Not promoted, though it passed", f"{met}, but: {reasons}.", now)
    if promotion.answer == "rejected":
        unmet = sum(criterion.verdict in ("failed", "not measured") for criterion in criteria)
        counted = f"{unmet} of {len(criteria)} criteria {'is' if unmet == 1 else 'are'} not met"
        return Verdict("rejected", "Rejected", f"{counted}: {reasons}.", now)
    if promotion.answer == "needs review":
        return Verdict("review", "Needs review", f"A person decides: {reasons}.", now)
    if before == version:
        return Verdict("promoted", "Promoted", f"{met}, and it was promoted before.", now)
    place = "there was no champion before" if before is None else f"it takes the place of version {before}"
    return Verdict("promoted", "Promoted", f"{met}; {place}.", now)


def seen_statement(facts: Facts) -> str | None:
    """How many of the test images the champion was trained on, which flatters it; None: no comparison."""
    if facts.compared is None or facts.evaluation.champion is None:
        return None
    share, version = facts.compared.seen, facts.evaluation.champion.version
    if share is None:
        return f"It is not known how many of these test images version {version} was trained on."
    if share == 0:
        return f"Version {version} was trained on none of these test images: the comparison is fair."
    return (
        f"Version {version} was trained on {format_value(share, 'share')} of these test images, "
        "so the comparison flatters it: a candidate as good looks worse than it is."
    )


def limitations(facts: Facts) -> list[str]:
    """What a user of the model should not expect of it: a sentence each, the gravest first."""
    leaking, leak = leak_statement(facts.train.split)
    return [*([leak] if leaking else []), *_of_data(facts), *_of_the_model(facts)]


def _of_data(facts: Facts) -> Iterator[str]:
    evaluation, groups = facts.evaluation, facts.evaluation.bootstrap.groups
    yield (
        f"Scored on {evaluation.images} images of {facts.train.dataset.title} in {groups} groups; other steel, light "
        "or cameras were not tried."
    )
    if groups < FEW_GROUPS:
        yield f"The test split has only {groups} groups of images: the intervals are rough."
    if not evaluation.defect_free:
        yield "No test image is free of defects: false positives on good steel are not known."
    train = facts.train.split.counts.get("train")
    counts = train.images_by_class if train else {}
    rare = [f"{name} ({counts[name]})" for name in facts.classes if counts.get(name, FEW_IMAGES) < FEW_IMAGES]
    if rare:
        yield f"Few images to learn from, fewer than {FEW_IMAGES} each: {_listed(rare)}."
    if absent := evaluation.scores.absent:
        yield f"Not in the test split, so its accuracy is not known: {_listed(absent)}."


def _of_the_model(facts: Facts) -> Iterator[str]:
    recalls = [(row.candidate.value, row.label) for row in by_class(facts, "defect_recall/class", "{}")]
    recalls += [(row.candidate.value, f"{row.label} defects") for row in by_size(facts)]
    weak = [
        f"{format_value(1 - recall, 'share')} of {name}"
        for recall, name in recalls
        if recall is not None and recall < LOW_RECALL
    ]
    if weak:
        yield f"It overlooks {_listed(weak)} in the test split."
    yield f"Its speed holds for {facts.machine}, in {facts.evaluation.runtime}; it differs on another machine."
    if noise := facts.benchmark.noise:
        yield f"The speed was measured on {noise}."
    if missing := facts.evaluation.not_available:
        yield f"Not measured on this machine: {_listed(list(missing))}."


def _listed(names: Sequence[str]) -> str:
    more = len(names) - LISTED
    return ", ".join([*names[:LISTED], *([f"{more} more"] if more > 0 else [])])
