"""What a user of the model should not expect of it, as far as the facts show it."""

from dbrnet.reports.decision_facts import Facts, leak_statement, machine

FEW_GROUPS = 50  # in the test split: below, the intervals are wide and themselves uncertain
FEW_IMAGES = 30  # of a class in the train split
LOW_RECALL = 0.8  # of the defects of a size or a class


def limits(facts: Facts) -> list[str]:
    """A sentence each, the gravest first."""
    leaking, leak = leak_statement(facts)
    return [*([leak] if leaking else []), *_of_data(facts), *_of_accuracy(facts), *_of_runtimes(facts)]


def _of_data(facts: Facts) -> list[str]:
    metrics, title = facts.metrics, facts.lineage["dataset"]["title"]
    groups = metrics["bootstrap"]["groups"]
    found = [
        f"Scored on {metrics['images']} images of {title} in {groups} groups; other steel, light or "
        "cameras were not tried."
    ]
    if groups < FEW_GROUPS:
        found.append(f"The test split shows only {groups} different things: the intervals are rough.")
    if not metrics["defect_free"]:
        found.append("No test image is free of defects: false positives on good steel are not known.")
    counts = (facts.lineage["split"].get("counts") or {}).get("train", {}).get("images_by_class", {})
    rare = [f"{name} ({counts[name]})" for name in facts.classes if counts.get(name, FEW_IMAGES) < FEW_IMAGES]
    if rare:
        found.append(f"Few images to learn from, fewer than {FEW_IMAGES} each: {_listed(rare)}.")
    if absent := metrics["scores"].get("absent"):
        found.append(f"Not in the test split, so nothing is known of it: {_listed(absent)}.")
    return found


def _of_accuracy(facts: Facts) -> list[str]:
    weak = []
    for kind, names in (("class", facts.classes), ("size", ("small", "medium", "large"))):
        for name in names:
            recall = facts.figure(f"defect_recall/{kind}/{name}")["value"]
            if recall is not None and recall < LOW_RECALL:
                weak.append(f"{100 * (1 - recall):.0f} % of {name}{' defects' if kind == 'size' else ''}")
    return [f"It overlooks {_listed(weak)} in the test split."] if weak else []


def _of_runtimes(facts: Facts) -> list[str]:
    found = [f"Its speed holds for {machine(facts)}, in {facts.runtime}; on another machine it is another."]
    if noise := facts.benchmark.get("noise"):
        found.append(f"The speed was measured on {noise}.")
    if missing := facts.metrics.get("not_available"):
        found.append(f"Not measured on this machine: {_listed(list(missing))}.")
    return found


def _listed(names: list[str]) -> str:
    shown = names[:6]
    more = len(names) - len(shown)
    return ", ".join([*shown, f"{more} more"] if more else shown)
