"""The decision's page: one HTML file that opens offline, for a reviewer with a minute."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2

from dbrnet.data.split import SPLITS
from dbrnet.errors import JobError
from dbrnet.records import Criterion, DisagreementFacts, Estimate, RuntimeSpeed, TrainRecord, flatten
from dbrnet.reports.decision_facts import (
    Comparison,
    Facts,
    by_class,
    by_size,
    limitations,
    overall,
    seen_statement,
    verdict,
)
from dbrnet.reports.html import WIDE, data_uri, leak_statement, moment, render
from dbrnet.reports.plots import latency_plot

TOPICS = {"accuracy": "Accuracy", "speed": "Speed", "data": "Data", "parity": "Parity with PyTorch"}
TILES = ("miou", "miou_defects", "defect_recall", "false_positives")
LEAST_SPAN = 0.01  # either way, so that a negligible difference looks like one
WIDTH = 160.0  # of a bar's view box
MARGIN = 0.08  # of the span, on either side

Span = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """A figure on a bar: places from 0 to WIDTH; None where it has no such part."""

    mark: float  # the threshold, or no difference
    point: float | None
    low: float | None
    high: float | None
    good: tuple[float, float] | None = None  # where the side that passes begins, and its width


@dataclass(frozen=True)
class Criteria:
    """Criteria under one heading; those of a `folded` group are shown on demand."""

    heading: str
    rows: list[tuple[Criterion, Drawing]]
    folded: bool


@dataclass(frozen=True)
class Disagreement:
    """An image that candidate and champion answer differently, with its panels as JPEG files."""

    facts: DisagreementFacts
    panels: Mapping[str, bytes]  # by caption
    wide: bool


@dataclass(frozen=True)
class Both:
    """A row of values, one for either side."""

    label: str
    candidate: object
    champion: object

    @property
    def differs(self) -> bool:
        """Whether both are known and not the same."""
        return None not in (self.candidate, self.champion) and self.candidate != self.champion


def render_review(facts: Facts) -> str:
    """The whole page as HTML, its images and styles inside."""
    tables = {
        "The whole test split": overall(facts),
        "IoU by class": by_class(facts, "iou", "IoU of {}"),
        "Defects found, by class": by_class(facts, "defect_recall/class", "{} found"),
        "Defects found, by size": by_size(facts),
        "Boundary F1 by class": by_class(facts, "boundary_f1", "boundary F1 of {}"),
    }
    rows = [row for table in tables.values() for row in table]
    ranked = sorted(facts.evaluation.disagreements, key=lambda image: image.change)
    lineage = facts.champion.lineage
    return render(
        "decision.html",
        facts=facts,
        title=facts.name,
        verdict=verdict(facts),
        criteria=_criteria(facts),
        comparisons={heading: _drawn(table) for heading, table in tables.items()},
        tiles=[row for row in tables["The whole test split"] if row.key in TILES],
        clear={word: [row for row in rows if row.reads == word] for word in ("worse", "better")},
        regressions=[_disagreement(facts.evaluated, image) for image in ranked if image.change < 0],
        improvements=[_disagreement(facts.evaluated, image) for image in reversed(ranked) if image.change > 0],
        speed=_speed(facts),
        latency=_latency(facts),
        data=_both(_sizes(facts.train), _sizes(lineage) if lineage else None),
        # A class that one side does not know is 0 there.
        balance=_both(
            facts.train.dataset.images_by_class, lineage.dataset.images_by_class if lineage else None, missing=0
        ),
        leak=leak_statement(facts.train.split),
        seen=seen_statement(facts),
        limitations=limitations(facts),
        lineage=_lineage(facts),
        settings={key: "no threshold" if value is None else value for key, value in flatten(facts.settings).items()},
    )


def _criteria(facts: Facts) -> list[Criteria]:
    """The unmet first, then by topic; parity has many, and is folded where all of it passed."""
    rows = [(criterion, _draw_criterion(criterion)) for criterion in facts.decision.criteria]
    groups = [Criteria("Not met", [row for row in rows if row[0].verdict != "passed"], folded=False)]
    for topic, heading in TOPICS.items():
        passed = [row for row in rows if row[0].topic == topic and row[0].verdict == "passed"]
        groups.append(Criteria(heading, passed, folded=topic == "parity"))
    return [group for group in groups if group.rows]


def _draw_criterion(criterion: Criterion) -> Drawing:
    """The figure and its threshold on a scale of their own, with the side that passes."""
    scale = _span([criterion.threshold, *_ends(criterion.figure)])
    drawing = _draw(criterion.figure, criterion.threshold, scale)
    at_least = criterion.direction == "at least"
    return replace(drawing, good=(drawing.mark, WIDTH - drawing.mark) if at_least else (0.0, drawing.mark))


def _drawn(rows: Sequence[Comparison]) -> list[tuple[Comparison, Drawing | None]]:
    """The rows with their differences drawn, the better side on the right: shares on one scale."""
    shared = [end for row in rows if row.difference.unit == "points" for end in _ends(row.improvement)]
    drawn: list[tuple[Comparison, Drawing | None]] = []
    for row in rows:
        ends = _ends(row.improvement)
        scale = _span([-LEAST_SPAN, LEAST_SPAN, *ends, *(shared if row.difference.unit == "points" else [])])
        drawn.append((row, _draw(row.improvement, 0.0, scale) if ends else None))
    return drawn


def _ends(figure: Estimate) -> list[float]:
    return [end for end in (figure.value, figure.low, figure.high) if end is not None]


def _span(values: Iterable[float]) -> Span:
    """From the least to the greatest of `values`, with a margin."""
    ends = sorted(values)
    margin = MARGIN * (ends[-1] - ends[0]) or 1.0
    return ends[0] - margin, ends[-1] + margin


def _draw(figure: Estimate, mark: float, scale: Span) -> Drawing:
    def place(value: float) -> float:
        return round(WIDTH * (value - scale[0]) / (scale[1] - scale[0]), 1)

    point, low, high = (None if end is None else place(end) for end in (figure.value, figure.low, figure.high))
    return Drawing(place(mark), point, low, high)


def _disagreement(folder: Path, image: DisagreementFacts) -> Disagreement:
    files = {caption: (folder / path).resolve() for caption, path in image.panels.items()}
    for file in files.values():
        if not file.is_relative_to(folder.resolve()) or file.suffix != ".jpg":
            raise JobError(f"{file} is no image in {folder}; run evaluate again")
    first = cv2.imread(str(next(iter(files.values()))))
    if first is None:
        raise JobError(f"{image.id}: its panels cannot be read; run evaluate again")
    panels = {caption: file.read_bytes() for caption, file in files.items()}
    return Disagreement(image, panels, wide=first.shape[1] / first.shape[0] >= WIDE)


def _speed(facts: Facts) -> list[tuple[str, RuntimeSpeed]]:
    """Rows of the speed's table: the candidate in the runtime of production, the champion, then other runtimes."""
    runtimes, deployed = facts.benchmark.runtimes, facts.evaluation.runtime
    rows = [(f"candidate, {deployed}", runtimes[deployed])] if deployed in runtimes else []
    if (champion := facts.benchmark.champion) and champion.compared:
        rows.append((f"champion, {champion.runtime}", champion.compared.speed))
    return rows + [(f"candidate, {name}", speed) for name, speed in runtimes.items() if name != deployed]


def _latency(facts: Facts) -> str | None:
    """The distribution of both sides' durations as an image; None where none was measured."""
    runtime = facts.evaluation.runtime
    sides = {runtime: "candidate", f"{runtime} (champion)": "champion"}
    times: dict[str, list[float]] = {}
    with facts.durations.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["runtime"] in sides:
                times.setdefault(sides[row["runtime"]], []).append(float(row["predict_ms"]))
    return data_uri(latency_plot(times, f"{runtime}, {facts.machine}"), "png") if times else None


def _sizes(train: TrainRecord) -> dict[str, int]:
    """How much data a side has."""
    sizes = {"images": train.dataset.images, "groups": train.dataset.groups}
    for name in SPLITS:
        held = train.split.counts[name]
        sizes |= {f"{name}: images": held.images, f"{name}: groups": held.groups}
    return sizes


def _lineage(facts: Facts) -> list[Both]:
    """Where the two come from, down to commit and data hash; what neither side knows is left out."""
    champion = facts.champion
    rows = [
        Both("version", facts.promotion.version, champion.version),
        Both("model, SHA-256", facts.evaluation.model_sha256, champion.sha256),
        Both("champion since", None, champion.since and moment(champion.since)),
        *_both(_origin(facts.train), _origin(champion.lineage) if champion.lineage else None),
    ]
    return [row for row in rows if (row.candidate, row.champion) != (None, None)]


def _origin(train: TrainRecord) -> dict[str, object]:
    """What a side was made of."""
    dataset, training = train.dataset, train.training
    return {
        "dataset": dataset.title,
        "content hash": dataset.content_hash,
        "DVC: dataset": dataset.dvc.dataset,
        "DVC: source": dataset.dvc.source,
        "DVC: source hash": dataset.dvc.source_hash,
        "DVC: source revision": dataset.dvc.source_revision,
        "split": train.split.text,
        "training": f"{training.text}, on {training.device}",
        "commit": train.provenance.code_revision,
        "MLflow run of the training": train.run_id,
        "libraries": train.provenance.libraries,
    }


def _both(candidate: Mapping[str, object], champion: Mapping[str, object] | None, missing: object = None) -> list[Both]:
    """A row for each label of either side; `missing` stands where one of two sides has no such label."""
    labels = dict.fromkeys([*candidate, *(champion or ())])
    return [
        Both(label, candidate.get(label, missing), None if champion is None else champion.get(label, missing))
        for label in labels
    ]
