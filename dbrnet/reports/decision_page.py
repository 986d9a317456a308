"""The decision's page: one HTML file that opens offline, for a reviewer with a minute."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2

from dbrnet.data.split import SPLITS
from dbrnet.errors import JobError
from dbrnet.records import Criterion, DisagreementFacts, RuntimeSpeed, TrainRecord, flatten
from dbrnet.reports.comparisons import Drawing, all_tables, draw_criterion
from dbrnet.reports.decision_facts import Facts, leak_statement, limitations, seen_statement, verdict
from dbrnet.reports.html import WIDE, css, data_uri, moment, templates
from dbrnet.reports.plots import latency_plot

TOPICS = {"accuracy": "Accuracy", "speed": "Speed", "data": "Data", "parity": "Parity with PyTorch"}
TILES = ("miou", "miou_defects", "defect_recall", "false_positives")
KINDS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


@dataclass(frozen=True)
class Criteria:
    """Criteria under one heading; those of a `folded` group are shown on demand."""

    heading: str
    rows: list[tuple[Criterion, Drawing]]
    folded: bool


@dataclass(frozen=True)
class Disagreement:
    """An image that candidate and champion answer differently, with its panels as data URIs."""

    facts: DisagreementFacts
    panels: Mapping[str, str]  # caption -> data URI
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
    regressions, improvements = _disagreements(facts)
    comparisons = all_tables(facts)
    whole = next(iter(comparisons.values()))
    return (
        templates()
        .get_template("decision.html")
        .render(
            facts=facts,
            title=facts.name,
            verdict=verdict(facts),
            criteria=_criteria(facts),
            comparisons=comparisons,
            tiles=[row for row in whole if row.key in TILES],
            clear={
                word: [row for rows in comparisons.values() for row in rows if row.reads == word]
                for word in ("worse", "better")
            },
            regressions=regressions,
            improvements=improvements,
            speed=_speed(facts),
            latency=_latency(facts),
            data=_data(facts),
            balance=_balance(facts),
            leak=leak_statement(facts),
            seen=seen_statement(facts),
            limitations=limitations(facts),
            colors_of_classes={name: css(color) for name, color in facts.evaluation.colors.items()},
            lineage=_lineage(facts),
            settings=flatten(facts.settings),
        )
    )


def _criteria(facts: Facts) -> list[Criteria]:
    """The unmet first, then by topic; parity has many, and is folded where all of it passed."""
    rows = [(criterion, draw_criterion(criterion)) for criterion in facts.decision.criteria]
    groups = [Criteria("Not met", [row for row in rows if row[0].verdict != "passed"], folded=False)]
    for topic, heading in TOPICS.items():
        passed = [row for row in rows if row[0].topic == topic and row[0].verdict == "passed"]
        groups.append(Criteria(heading, passed, folded=topic == "parity"))
    return [group for group in groups if group.rows]


def _disagreements(facts: Facts) -> tuple[list[Disagreement], list[Disagreement]]:
    """Regressions, the worst first, and improvements, the best first."""
    ranked = sorted(facts.evaluation.disagreements, key=lambda image: image.change)
    worse = [_disagreement(facts.evaluated, image) for image in ranked if image.change < 0]
    better = [_disagreement(facts.evaluated, image) for image in reversed(ranked) if image.change > 0]
    return worse, better


def _disagreement(folder: Path, image: DisagreementFacts) -> Disagreement:
    files = {}
    for caption, path in image.panels.items():
        files[caption] = (folder / path).resolve()
        if not files[caption].is_relative_to(folder.resolve()) or files[caption].suffix not in KINDS:
            raise JobError(f"{path} is no image in {folder}; run evaluate again")
    panels = {caption: data_uri(file.read_bytes(), KINDS[file.suffix]) for caption, file in files.items()}
    first = cv2.imread(str(next(iter(files.values()))))
    if first is None:
        raise JobError(f"{image.id}: its panels cannot be read; run evaluate again")
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


def _data(facts: Facts) -> list[Both]:
    """The sizes of both sides' data."""
    rows: dict[str, Callable[[TrainRecord], object]] = {
        "images": lambda train: train.dataset.images,
        "groups": lambda train: train.dataset.groups,
    }
    for name in SPLITS:
        rows[f"{name}: images"] = lambda train, name=name: train.split.counts[name].images  # type: ignore[misc]
        rows[f"{name}: groups"] = lambda train, name=name: train.split.counts[name].groups  # type: ignore[misc]
    return _both(facts, rows)


def _balance(facts: Facts) -> list[Both]:
    """The number of images by class; a class that one side does not know is 0 there."""
    own, lineage = facts.train.dataset.images_by_class, facts.champion.lineage
    other = lineage.dataset.images_by_class if lineage else None
    names = dict.fromkeys([*own, *(other or ())])
    return [Both(name, own.get(name, 0), None if other is None else other.get(name, 0)) for name in names]


def _lineage(facts: Facts) -> list[Both]:
    """Where the two come from, down to commit and data hash."""
    champion = facts.champion
    rows = [
        Both("version", facts.promotion.version, champion.version),
        Both("model, SHA-256", facts.evaluation.model_sha256, champion.sha256),
        Both("champion since", None, champion.since and moment(champion.since)),
    ]
    rows += _both(
        facts,
        {
            "dataset": lambda train: train.dataset.title,
            "content hash": lambda train: train.dataset.content_hash,
            "DVC: dataset": lambda train: train.dataset.dvc.dataset,
            "DVC: source": lambda train: train.dataset.dvc.source,
            "DVC: source hash": lambda train: train.dataset.dvc.source_hash,
            "DVC: source revision": lambda train: train.dataset.dvc.source_revision,
            "split": lambda train: train.split.text,
            "training": lambda train: (
                f"seed {train.training.seed}, best epoch {train.training.best_epoch} of {train.training.epochs}, "
                f"on {train.training.device}"
            ),
            "commit": lambda train: train.provenance.code_revision,
            "MLflow run of the training": lambda train: train.run_id,
            "libraries": lambda train: train.provenance.libraries,
        },
    )
    return [row for row in rows if (row.candidate, row.champion) != (None, None)]


def _both(facts: Facts, rows: Mapping[str, Callable[[TrainRecord], object]]) -> list[Both]:
    lineage = facts.champion.lineage
    return [Both(label, read(facts.train), lineage and read(lineage)) for label, read in rows.items()]
