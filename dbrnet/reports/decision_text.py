"""A decision as text: the model card in Markdown, which MLflow shows on the version, and the terminal's summary."""

import textwrap
from collections.abc import Iterator, Sequence

from dbrnet.benchmark.measurement import table
from dbrnet.records import BenchmarkRecord, Criterion, Promotion, format_value
from dbrnet.reports.decision_facts import Comparison, Facts, by_class, by_size, limitations, overall, verdict
from dbrnet.reports.html import leak_statement

LONGEST = 5000  # characters: MLflow's description of a version
LINE = 300  # characters of a text that others wrote
ROWS = 12  # of a table; the review has them all
SPECIAL = str.maketrans({character: f"\\{character}" for character in "\\`*[]|#"} | {"<": "&lt;", ">": "&gt;"})


def model_card(facts: Facts) -> str:
    """What to know before using the model, at most `LONGEST` characters; the review has what does not fit."""
    card, end = "", "\n\nShortened: the review has everything."
    for section in _sections(facts):
        if len(card) + len(section) > LONGEST - len(end):
            return card.rstrip() + end + "\n"
        card += section + "\n\n"
    return card.rstrip() + "\n"


def _sections(facts: Facts) -> Iterator[str]:
    evaluation, dataset, split = facts.evaluation, facts.train.dataset, facts.train.split
    outcome, decided = verdict(facts), facts.promotion
    leaking, leak = leak_statement(split)
    nn_baseline = "The nearest-neighbour baseline was not measured."
    if evaluation.nn_miou is not None:
        miou = format_value(evaluation.nn_miou, "share")
        nn_baseline = f"Copying the nearest training image's mask scores {miou} mIoU."
    note = [f"The dataset's card says: {_text(split.leak_note)}"] if split.leak_note else []
    yield f"# {_text(facts.name)}"
    yield _text(f"{outcome.word} on {decided.time[:10]} by {decided.by}. {outcome.why} {outcome.now}")
    if leaking:  # before any figure, and for ever
        yield f"**{_text(leak)}**"
    yield _section(
        "Intended use",
        f"Marks defects ({_text(', '.join(facts.classes))}) pixel by pixel in images like those of "
        f"{_text(dataset.title)}. It assists an inspection; it was not tested as the only safeguard.",
    )
    yield _section("Decision", *_criteria(facts.decision.criteria))
    yield _section("Limitations", *(f"- {_text(sentence)}" for sentence in limitations(facts)))
    yield _section("Leaks", "\n\n".join([_text(leak), *note, nn_baseline]))
    yield _section(
        "Accuracy",
        f"{evaluation.images} test images, in % with {round(100 * evaluation.bootstrap.confidence)} % intervals.",
        "",
        *_accuracy(facts, overall(facts)),
    )
    yield _section("Speed", f"On {_text(facts.machine)}.", "", _speed_table(facts.benchmark))
    splits = ", ".join(f"{name} {counts.images} in {counts.groups} groups" for name, counts in split.counts.items())
    yield _section(
        "Data",
        f"- {_text(dataset.title)}: {dataset.images} images in {dataset.groups} groups, content hash "
        f"{dataset.content_hash}",
        f"- split: {_text(split.text)}{': ' + splits if splits else ''}",
    )
    lineage = {
        "commit": facts.train.provenance.code_revision or "not known",
        "training run": facts.train.run_id,
        "model, SHA-256": evaluation.model_sha256,
        **facts.links,
    }
    yield _section("Lineage", *(f"- {_text(label)}: {_text(value)}" for label, value in lineage.items()))
    yield _section("IoU by class", *_accuracy(facts, by_class(facts, "iou", "{}")))
    yield _section("Defects found, by size", *_accuracy(facts, by_size(facts)))


def _section(heading: str, *lines: str) -> str:
    return "\n".join([f"## {heading}", "", *lines])


def _accuracy(facts: Facts, rows: Sequence[Comparison]) -> list[str]:
    lines = []
    for row in rows[:ROWS]:
        line = {"": _text(row.label), "this model": row.candidate.text(bare=True)}
        if facts.compared and facts.evaluation.champion:
            line[f"version {facts.evaluation.champion.version}"] = row.champion.text(bare=True)
        lines.append(line)
    return [table(lines) if lines else "Not measured.", *_more(rows)]


def _speed_table(benchmark: BenchmarkRecord) -> str:
    rows = [
        {
            "runtime": _text(name),
            "frames per second": format_value(speed.fps, "fps"),
            "p50 ms": format_value(speed.p50_ms, "ms"),
            "p99 ms": format_value(speed.p99_ms, "ms"),
        }
        for name, speed in benchmark.runtimes.items()
    ]
    return table(rows) if rows else "Not measured."


def _criteria(criteria: Sequence[Criterion]) -> list[str]:
    """The unmet criteria in full, the others as a count."""
    unmet = [criterion for criterion in criteria if criterion.verdict != "passed"]
    lines = [f"- {_text(criterion.text)}" for criterion in unmet[:ROWS]]
    return [f"{len(criteria) - len(unmet)} of {len(criteria)} criteria passed.", "", *lines, *_more(unmet)]


def _more(rows: Sequence[object]) -> list[str]:
    return [f"\n… and {len(rows) - ROWS} more in the review."] if len(rows) > ROWS else []


def _text(text: str) -> str:
    """Text that others wrote, in one line and with Markdown's characters escaped."""
    return textwrap.shorten(text, LINE, placeholder=" …").translate(SPECIAL)


def render_summary(facts: Facts) -> str:
    """A few aligned lines: the decision, the candidate's figures, the comparison, and where to look."""
    evaluation, benchmark, dataset, split = facts.evaluation, facts.benchmark, facts.train.dataset, facts.train.split
    leaks = f"LEAKS {format_value(split.leak_rate.get('test'), 'share')}" if split.leaks == "yes" else "no leak"
    iou = [
        f"{name} {'absent' if value is None else format_value(value, 'share')}"
        for name, value in evaluation.scores.iou.items()
    ]
    nn_baseline = format_value(evaluation.nn_miou, "share")
    height, width = benchmark.size
    lines = [
        ("decision", outcome_line(facts.promotion)),
        ("mIoU", f"{facts.figure('miou')} with background, {facts.figure('miou_defects')} over defects"),
        ("", f"{evaluation.images} test images of {dataset.title}, split by {split.kind} (seed {split.seed}): {leaks}"),
        ("", f"copying the nearest training image's mask, with no learning, scores {nn_baseline}"),
        ("IoU", ", ".join(iou)),
        (
            "defects",
            f"{facts.figure('defect_recall')} found, "
            f"{facts.figure('defect_precision')} of the predicted ones are correct",
        ),
        *_comparison(facts),
        ("speed", _speed(evaluation.runtime, benchmark)),
        ("", f"one image of {height}x{width}, {benchmark.threads} threads, {benchmark.provenance.hardware.processors}"),
        *(
            ("", f"{_speed(name, benchmark)}, mIoU {format_value(parity.miou, 'share')}")
            for name, parity in evaluation.runtimes.items()
            if name != evaluation.runtime
        ),
        *facts.links.items(),
    ]
    return "\n".join(f"{label:>9}  {text}" for label, text in lines) + "\n"


def outcome_line(promotion: Promotion) -> str:
    """What became of the candidate, and who is champion now, in one line."""
    version, before, now = promotion.version, promotion.champion_before, promotion.champion_now
    own, reasons = f"{promotion.model_name} version {version}", "; ".join(promotion.reasons)
    stays = "there is no champion"
    if now is not None:
        stays = f"version {now} {'stays' if now == promotion.champion_after else 'is'} champion"
    if promotion.answer == "promoted":
        if now != promotion.champion_after:
            return f"promoted before, and not again: {own} is champion no more ({stays} now)"
        if before == version:
            return f"promoted: {own} was the champion already and stays"
        return f"promoted: {own} is the champion now (before: {'none' if before is None else f'version {before}'})"
    if promotion.answer == "needs review":
        if version in (before, now):
            return f"needs review: {own}: {reasons} ({stays})"
        advice = f"`dbrnet registry approve {version}` or `reject {version} --why ...`"
        return f"needs review: {own}: {reasons} ({stays}); {advice}"
    return f"rejected: {own}: {reasons} ({stays})"


def _comparison(facts: Facts) -> list[tuple[str, str]]:
    """The line on the champion, if there is one."""
    champion, timed = facts.evaluation.champion, facts.benchmark.compared
    if champion is None:
        return []
    if champion.compared is None:
        return [("champion", f"version {champion.version} not compared: {champion.not_compared}")]
    speed = f", {timed.times_as_fast} times as fast" if timed else ""
    return [("champion", f"mIoU {facts.difference('miou')} against version {champion.version}{speed}")]


def _speed(runtime: str, benchmark: BenchmarkRecord) -> str:
    speed = benchmark.runtimes.get(runtime)
    if speed is None:
        return f"{runtime}: not measured"
    fps, p50, p99 = format_value(speed.fps, "fps"), format_value(speed.p50_ms, "ms"), format_value(speed.p99_ms, "ms")
    return f"{fps} frames per second (p50 {p50} ms, p99 {p99} ms), {runtime}, {speed.precision}"
