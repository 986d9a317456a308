"""The model card: what to know before using the model, in Markdown; MLflow shows it on the version."""

import textwrap
from collections.abc import Iterable, Sequence

from dbrnet.benchmark.measurement import table
from dbrnet.reports.comparison_tables import Comparison, by_class, by_size, overall
from dbrnet.reports.decision_facts import Facts, Json, leak_statement, machine, verdict
from dbrnet.reports.limitations import limits

LONGEST = 5000  # characters: MLflow's description of a version
LINE = 300  # characters of a text that others wrote
ROWS = 12  # of a table; the review has them all
SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*[]|#"} | {"<": "&lt;", ">": "&gt;"})


def model_card(facts: Facts) -> str:
    """The card, at most `LONGEST` characters: what does not fit is said to be in the review."""
    found, end = "", "\n\nShortened: the review has everything."
    for section in _sections(facts):
        if len(found) + len(section) > LONGEST - len(end):
            return found.rstrip() + end + "\n"
        found += section + "\n\n"
    return found.rstrip() + "\n"


def _sections(facts: Facts) -> Iterable[str]:
    dataset, split = facts.lineage["dataset"], facts.lineage["split"]
    said = verdict(facts)
    note = [f"The dataset's card says: {_text(split['leak_note'])}"] if split.get("leak_note") else []
    confidence = round(100 * facts.metrics["bootstrap"]["confidence"])
    yield f"# {_text(facts.name)}"
    yield _text(f"{said.word} on {facts.time[:10]} by {facts.by}. {said.why} {said.now}")
    leaking, leak = leak_statement(facts)
    if leaking:  # before any figure, and for ever
        yield f"**{_text(leak)}**"
    yield _section(
        "Intended use",
        f"Marks defects ({_text(', '.join(facts.classes))}) pixel by pixel in images like those of "
        f"{_text(dataset['title'])}. It assists an inspection; it was not tested as the only safeguard.",
    )
    yield _section("Decision", *_criteria(facts.decision["criteria"]))
    yield _section("Limits", *(f"- {_text(one)}" for one in limits(facts)))
    yield _section("Leaks", *_paragraphs(_text(leak), *note, _nn_baseline(facts)))
    yield _section(
        "Accuracy",
        f"{facts.metrics['images']} test images, in % with {confidence} % intervals.",
        "",
        *_accuracy(facts, overall(facts)),
    )
    yield _section("Speed", f"On {_text(machine(facts))}.", "", *_speed(facts))
    yield _section("Data", *_data(facts))
    yield _section("Lineage", *_lineage(facts))
    yield _section("IoU by class", *_accuracy(facts, by_class(facts, "iou", "{}")))
    yield _section("Defects found, by size", *_accuracy(facts, by_size(facts)))


def _section(heading: str, *lines: str) -> str:
    return "\n".join([f"## {heading}", "", *lines])


def _paragraphs(*texts: str) -> list[str]:
    return "\n\n".join(texts).split("\n")


def _nn_baseline(facts: Facts) -> str:
    miou = facts.metrics["nn_baseline"]["miou"]
    if miou is None:
        return "Nearest-neighbour baseline was not measured."
    return f"Copying the nearest training image's mask scores {100 * miou:.1f} % mIoU."


def _accuracy(facts: Facts, rows: Sequence[Comparison]) -> list[str]:
    lines = []
    for row in rows[:ROWS]:
        line = {"": _text(row.label), "this model": _range(row.candidate, row.share)}
        if facts.baseline is not None:
            line[f"version {facts.baseline['version']}"] = _range(row.champion, row.share)
        lines.append(line)
    return [table(lines) if lines else "Not measured.", *_more(rows, ROWS)]


def _range(figure: Json, share: bool) -> str:
    scale, digits = (100, 1) if share else (1, 2)
    if figure["value"] is None:
        return "–"
    value = f"{scale * figure['value']:.{digits}f}"
    if figure["low"] is None or figure["high"] is None:
        return value
    return f"{value} ({scale * figure['low']:.{digits}f} to {scale * figure['high']:.{digits}f})"


def _speed(facts: Facts) -> list[str]:
    rows = [
        {
            "runtime": _text(name),
            "frames per second": f"{one['fps']:.1f}",
            "p50 ms": f"{one['p50_ms']:.1f}",
            "p99 ms": f"{one['p99_ms']:.1f}",
        }
        for name, one in facts.benchmark["runtimes"].items()
    ]
    return [table(rows) if rows else "Not measured."]


def _criteria(criteria: Sequence[Json]) -> list[str]:
    """What is in the way in full, the rest as a count."""
    passed = sum(one["verdict"] == "passed" for one in criteria)
    unmet = [one for one in criteria if one["verdict"] != "passed"]
    lines = [f"- {_text(one['text'])}" for one in unmet[:ROWS]]
    return [f"{passed} of {len(criteria)} criteria passed.", "", *lines, *_more(unmet, ROWS)]


def _data(facts: Facts) -> list[str]:
    dataset, split = facts.lineage["dataset"], facts.lineage["split"]
    lines = [
        f"- {_text(dataset['title'])}: {_known(dataset.get('images'))} images in "
        f"{_known(dataset.get('groups'))} groups, content hash {dataset['content_hash']}"
    ]
    counts = (split.get("counts") or {}).items()
    splits = ", ".join(f"{split_name} {one['images']} in {one['groups']} groups" for split_name, one in counts)
    return [*lines, f"- split: {_text(split['kind'])}, seed {split['seed']}{': ' + splits if splits else ''}"]


def _lineage(facts: Facts) -> list[str]:
    facts_of = {
        "commit": facts.lineage["provenance"]["code_revision"],
        "training run": facts.lineage["run_id"],
        "model, SHA-256": facts.metrics["model_sha256"],
        **facts.links,
    }
    return [f"- {_text(label)}: {_text(_known(value))}" for label, value in facts_of.items()]


def _more(rows: Sequence[object], shown: int) -> list[str]:
    return [f"\n… and {len(rows) - shown} more in the review."] if len(rows) > shown else []


def _known(value: object) -> str:
    return "not known" if value is None else str(value)


def _text(text: str) -> str:
    """Text that others wrote, so that Markdown shows it as it is, in one line."""
    return textwrap.shorten(text, LINE, placeholder=" …").translate(SPECIAL)
