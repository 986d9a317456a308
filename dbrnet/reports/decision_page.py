"""The decision's page: one HTML file that opens offline, for a reviewer with a minute."""

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2

from dbrnet.errors import JobError
from dbrnet.reports.comparison_tables import Comparison, by_class, by_size, overall
from dbrnet.reports.decision_facts import Facts, Json, leak_statement, machine, seen_statement, verdict
from dbrnet.reports.drawing import Drawing, draw_criterion
from dbrnet.reports.formatting import moment, review_templates
from dbrnet.reports.html import data_uri
from dbrnet.reports.latency_plots import latency_plot
from dbrnet.reports.limitations import limits

TOPICS = {"accuracy": "Accuracy", "speed": "Speed", "data": "Data", "parity": "Parity with PyTorch"}
TILES = ("mIoU", "mIoU, defects only", "defects found", "false positives, each clean image")
DVC = ("dataset", "source", "source_hash", "source_revision")
SPLITS = ("train", "val", "test")
WIDE = 2.0  # width / height from which an image's panels are stacked, not set side by side
KINDS = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


@dataclass(frozen=True)
class Criteria:
    """Criteria under one heading; those of a `folded` group are shown on demand."""

    heading: str
    rows: list[tuple[Json, Drawing]]
    folded: bool


@dataclass(frozen=True)
class Disagreement:
    """An image that candidate and champion answer differently, with its panels as data URIs."""

    facts: Json
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
    return (
        review_templates()
        .get_template("decision.html")
        .render(
            facts=facts,
            title=facts.name,
            verdict=verdict(facts),
            dataset=facts.lineage["dataset"],
            criteria=_criteria(facts),
            comparisons=(comparisons := _comparisons(facts)),
            tiles=[row for row in comparisons["The whole test split"] if row.label in TILES],
            clear={
                word: [row for rows in comparisons.values() for row in rows if row.reads == word]
                for word in ("worse", "better")
            },
            regressions=regressions,
            improvements=improvements,
            speed=_speed(facts),
            latency=_latency(facts),
            machine=machine(facts),
            data=_data(facts),
            balance=_balance(facts),
            leak=leak_statement(facts),
            seen=seen_statement(facts),
            limits=limits(facts),
            colors={
                name: "#{:02x}{:02x}{:02x}".format(*color) for name, color in facts.metrics.get("colors", {}).items()
            },
            lineage=_lineage(facts),
            settings=_flat(facts.params),
        )
    )


def _comparisons(facts: Facts) -> dict[str, list[Comparison]]:
    """The tables of accuracy by their headings."""
    return {
        "The whole test split": overall(facts),
        "IoU by class": by_class(facts, "iou", "IoU of {}"),
        "Defects found, by class": by_class(facts, "defect_recall/class", "{} found"),
        "Defects found, by size": by_size(facts),
        "Boundary F1 by class": by_class(facts, "boundary_f1", "boundary F1 of {}"),
    }


def _criteria(facts: Facts) -> list[Criteria]:
    """What is in the way first, then by topic; parity has many, and is folded where all of it passed."""
    every = [(one, draw_criterion(one)) for one in facts.decision["criteria"]]
    unmet = [row for row in every if row[0]["verdict"] != "passed"]
    found = [Criteria("In the way", unmet, folded=False)]
    for topic, heading in TOPICS.items():
        rows = [row for row in every if row[0]["topic"] == topic and row[0]["verdict"] == "passed"]
        found.append(Criteria(heading, rows, folded=topic == "parity"))
    return [group for group in found if group.rows]


def _disagreements(facts: Facts) -> tuple[list[Disagreement], list[Disagreement]]:
    """Regressions, the worst first, and improvements, the best first."""
    ranked = sorted(facts.metrics["disagreements"], key=lambda one: one["change"])
    worse = [_disagreement(facts, one) for one in ranked if one["change"] < 0]
    better = [_disagreement(facts, one) for one in reversed(ranked) if one["change"] > 0]
    return worse, better


def _disagreement(facts: Facts, one: Json) -> Disagreement:
    files = {caption: _inside(facts.evaluated, path) for caption, path in one["panels"].items()}
    panels = {caption: data_uri(file.read_bytes(), KINDS[file.suffix]) for caption, file in files.items()}
    first = cv2.imread(str(next(iter(files.values()))))
    if first is None:
        raise JobError(f"{one['id']}: its panels cannot be read; run evaluate again")
    return Disagreement(one, panels, wide=first.shape[1] / first.shape[0] >= WIDE)


def _inside(root: Path, path: str) -> Path:
    file = (root / path).resolve()
    if not file.is_relative_to(root.resolve()) or file.suffix not in KINDS:
        raise JobError(f"{path} is no image in {root}; run evaluate again")
    return file


def _speed(facts: Facts) -> list[tuple[str, Json]]:
    """Rows of the speed's table: the candidate where the line runs it, the champion, then other runtimes."""
    runtimes, champion = facts.benchmark["runtimes"], facts.benchmark["champion"]
    rows = [(f"candidate, {name}", runtimes[name]) for name in (facts.runtime,) if name in runtimes]
    if champion and "p50_ms" in champion:
        rows.append((f"champion, {champion['runtime']}", champion))
    return rows + [(f"candidate, {name}", one) for name, one in runtimes.items() if name != facts.runtime]


def _latency(facts: Facts) -> str | None:
    """Both sides' durations, drawn in the speed's style; None where none was measured."""
    sides = {facts.runtime: "candidate", f"{facts.runtime} (champion)": "champion"}
    times: dict[str, list[float]] = {}
    with facts.durations.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["runtime"] in sides:
                times.setdefault(sides[row["runtime"]], []).append(float(row["predict_ms"]))
    return data_uri(latency_plot(times, f"{facts.runtime}, {machine(facts)}"), "png") if times else None


def _data(facts: Facts) -> list[Both]:
    """What the two were made of, in numbers."""
    rows = {"images": _path("dataset", "images"), "groups": _path("dataset", "groups")}
    for split_name in SPLITS:
        rows[f"{split_name}: images"] = _path("split", "counts", split_name, "images")
        rows[f"{split_name}: groups"] = _path("split", "counts", split_name, "groups")
    return _both(facts, rows)


def _balance(facts: Facts) -> list[Both]:
    """In how many images each class is; a class that one side does not know is 0 there."""
    sides = [_at(lineage, "dataset", "images_by_class") for lineage in _lineages(facts)]
    names = dict.fromkeys(name for side in sides if side for name in side)
    return [Both(name, *(None if side is None else side.get(name, 0) for side in sides)) for name in names]


def _lineage(facts: Facts) -> list[Both]:
    """Where the two come from, down to commit and data hash."""
    rows = {
        "dataset": _path("dataset", "title"),
        "content hash": _path("dataset", "content_hash"),
        **{f"DVC: {key.replace('_', ' ')}": _path("dataset", "dvc", key) for key in DVC},
        "split": _split,
        "training": _training,
        "commit": _path("provenance", "code_revision"),
        "MLflow run of the training": _path("run_id"),
        "libraries": _libraries,
    }
    own = facts.outcome["version"], facts.metrics["model_sha256"]
    other = facts.champion["version"], facts.champion["sha256"]
    first = [Both(label, *values) for label, *values in zip(("version", "model, SHA-256"), own, other, strict=True)]
    since = Both("champion since", None, None if facts.champion["since"] is None else moment(facts.champion["since"]))
    return [row for row in (*first, since, *_both(facts, rows)) if (row.candidate, row.champion) != (None, None)]


def _split(lineage: Json) -> str:
    return f"{_at(lineage, 'split', 'kind')}, seed {_at(lineage, 'split', 'seed')}"


def _training(lineage: Json) -> str:
    settings, training = _at(lineage, "training", "params") or {}, lineage["training"]
    return (
        f"seed {settings.get('seed')}, best epoch {training['best_epoch']} of {settings.get('epochs')}, "
        f"on {training['device']}"
    )


def _libraries(lineage: Json) -> str:
    return ", ".join(f"{name} {version}" for name, version in lineage["provenance"]["versions"].items())


def _both(facts: Facts, rows: Mapping[str, Callable[[Json], object]]) -> list[Both]:
    sides = _lineages(facts)
    found = [Both(label, *(None if one is None else of(one) for one in sides)) for label, of in rows.items()]
    return [row for row in found if (row.candidate, row.champion) != (None, None)]


def _lineages(facts: Facts) -> tuple[Json, Json | None]:
    return facts.lineage, facts.champion["lineage"]


def _at(found: Any, *path: str) -> Any:
    """What lies at `path`; None where an older lineage has no such thing."""
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _path(*path: str) -> Callable[[Json], object]:
    return lambda lineage: _at(lineage, *path)


def _flat(section: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in section.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found
