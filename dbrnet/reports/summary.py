"""The outcome as the terminal shows it."""

from typing import Any

from dbrnet.reports.decision_facts import Facts, Json


def render_summary(facts: Facts) -> str:
    """A few aligned lines: the decision, the candidate's figures, how it compares, and where to look."""
    metrics, speed, lineage = facts.metrics, facts.benchmark, facts.lineage
    scores, split = metrics["scores"], lineage["split"]
    leaks = f"LEAKS {split['leak_rate']['test']:.1%}" if split["leaks"] == "yes" else "no leak"
    iou = [f"{name} {'absent' if value is None else f'{value:.3f}'}" for name, value in scores["iou"].items()]
    hardware = speed["provenance"]["hardware"]
    lines = [
        ("decision", outcome_line(facts.outcome)),
        (
            "mIoU",
            f"{_share(facts.figure('miou'))} with background, {_share(facts.figure('miou_defects'))} over defects",
        ),
        (
            "",
            f"{metrics['images']} test images of {lineage['dataset']['title']}, split by "
            f"{split['kind']} (seed {split['seed']}): {leaks}",
        ),
        (
            "",
            f"copying the nearest training image's mask, with no learning, scores {metrics['nn_baseline']['miou']:.4f}",
        ),
        ("IoU", ", ".join(iou)),
        (
            "defects",
            f"{_share(facts.figure('defect_recall'))} found, "
            f"{_share(facts.figure('defect_precision'))} of those reported are there",
        ),
        *_comparison(facts),
        ("speed", _speed_of(metrics["runtime"], speed)),
        (
            "",
            f"one image of {speed['size'][0]}x{speed['size'][1]}, {speed['threads']} threads, "
            + ", ".join([hardware["cpu"], *hardware["gpus"]]),
        ),
        *(
            ("", f"{_speed_of(name, speed)}, mIoU {one['miou']:.4f}")
            for name, one in metrics["runtimes"].items()
            if name != metrics["runtime"]
        ),
        *facts.links.items(),
    ]
    return "\n".join(f"{label:>9}  {text}" for label, text in lines) + "\n"


def outcome_line(outcome: Json) -> str:
    """What became of the candidate, and who is champion now, in one line."""
    name, version = outcome["model_name"], outcome["version"]
    before, after = outcome["champion_before"], outcome["champion_after"]
    own, now = f"{name} version {version}", outcome["champion_now"]
    stays = "there is no champion" if now is None else f"version {now} {'stays' if now == after else 'is'} champion"
    if outcome["answer"] == "promoted":
        if now != after:
            return f"promoted before, and not again: {own} is champion no more ({stays} now)"
        if before == version:
            return f"promoted: {own} was the champion already and stays"
        return f"promoted: {own} is the champion now (before: {_version(before)})"
    if outcome["answer"] == "needs review":
        if version in (before, now):
            return f"needs review: {own}: {'; '.join(outcome['reasons'])} ({stays})"
        advice = f"`dbrnet registry approve {version}` or `reject {version} --why ...`"
        return f"needs review: {own}: {'; '.join(outcome['reasons'])} ({stays}); {advice}"
    return f"rejected: {own}: {'; '.join(outcome['reasons'])} ({stays})"


def _comparison(facts: Facts) -> list[tuple[str, str]]:
    """The line on the champion, if there is one."""
    if facts.not_compared is not None:
        return [("champion", f"version {facts.metrics['champion']['version']} not compared: {facts.not_compared}")]
    if facts.baseline is None:
        return []
    timed = facts.benchmark["champion"].get("times_as_fast")
    speed = f", {timed['median']:.2f} ({timed['low']:.2f} to {timed['high']:.2f}) times as fast" if timed else ""
    difference = facts.difference("miou")
    return [("champion", f"mIoU {_signed(difference)} against version {facts.baseline['version']}{speed}")]


def _share(figure: Json) -> str:
    if figure["value"] is None:
        return "none"
    if figure["low"] is None:
        return f"{figure['value']:.4f}"
    return f"{figure['value']:.4f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _signed(figure: Json) -> str:
    if figure["low"] is None:
        return f"{figure['value']:+.4f}"
    return f"{figure['value']:+.4f} ({figure['low']:+.4f} to {figure['high']:+.4f})"


def _version(number: int | None) -> str:
    return "none" if number is None else f"version {number}"


def _speed_of(runtime: str, speed: Json) -> str:
    one: dict[str, Any] | None = speed["runtimes"].get(runtime)
    if one is None:
        return f"{runtime}: not measured"
    return (
        f"{one['fps']:.1f} frames per second (p50 {one['p50_ms']:.1f} ms, p99 {one['p99_ms']:.1f} ms), "
        f"{runtime}, {one['precision']}"
    )
