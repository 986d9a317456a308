"""The facts of one decision, and what follows from them in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dbrnet.evaluation.defect_metrics import SIZES
from dbrnet.records import (
    BenchmarkRecord,
    ChampionRecord,
    ComparedScores,
    Decision,
    Estimate,
    EvaluationRecord,
    Promotion,
    TrainRecord,
    format_value,
)

SHOWN_REASONS = 2  # in the sentence; the criteria list them all
FEW_GROUPS = 50  # in the test split: below, the intervals are wide and themselves uncertain
FEW_IMAGES = 30  # of a class in the train split
LOW_RECALL = 0.8  # of the defects of a size or a class
NOT_KNOWN = Estimate(value=None)


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
    def not_compared(self) -> str | None:
        """Why there is no comparison though there is a champion."""
        return self.evaluation.champion.not_compared if self.evaluation.champion else None

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
    reasons = _sentence(promotion.reasons)
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


def _sentence(reasons: Sequence[str]) -> str:
    shown = "; ".join(reasons[:SHOWN_REASONS])
    more = len(reasons) - SHOWN_REASONS
    return f"{shown}; and {more} more" if more > 0 else shown


def leak_statement(facts: Facts) -> tuple[bool, str]:
    """Whether the candidate's scores leak, and the sentence that says so."""
    split = facts.train.split
    if split.leaks != "yes":
        return False, "No known leak: the audit found no test image that is a near-copy of a training image."
    rate = split.leak_rate.get("test")
    counted = "Test images" if rate is None else f"{format_value(rate, 'share')} of the test images"
    return True, f"LEAKS: {counted} have a near-copy in training. The scores measure memory as much as skill."


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
    leaking, leak = leak_statement(facts)
    return [*([leak] if leaking else []), *_of_data(facts), *_of_accuracy(facts), *_of_runtimes(facts)]


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


def _of_accuracy(facts: Facts) -> Iterator[str]:
    weak = []
    for kind, names in (("class", facts.classes), ("size", SIZES)):
        for name in names:
            recall = facts.figure(f"defect_recall/{kind}/{name}").value
            if recall is not None and recall < LOW_RECALL:
                missed = format_value(1 - recall, "share")
                weak.append(f"{missed} of {name}{' defects' if kind == 'size' else ''}")
    if weak:
        yield f"It overlooks {_listed(weak)} in the test split."


def _of_runtimes(facts: Facts) -> Iterator[str]:
    yield f"Its speed holds for {facts.machine}, in {facts.evaluation.runtime}; it differs on another machine."
    if noise := facts.benchmark.noise:
        yield f"The speed was measured on {noise}."
    if missing := facts.evaluation.not_available:
        yield f"Not measured on this machine: {_listed(list(missing))}."


def _listed(names: Sequence[str]) -> str:
    shown = names[:6]
    more = len(names) - len(shown)
    return ", ".join([*shown, f"{more} more"] if more else shown)
