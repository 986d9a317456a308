"""The facts of one decision, as the steps wrote them, and what follows from them in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Json = Mapping[str, Any]
SHOWN_REASONS = 2  # in the sentence; the criteria say them all


@dataclass(frozen=True)
class Facts:
    """All that is known where a decision is written down; each mapping is a file or a `to_dict`."""

    decision: Json  # Decision.to_dict()
    outcome: Json  # Promotion.to_dict()
    metrics: Json  # metrics.json
    benchmark: Json  # benchmark.json
    lineage: Json  # the candidate's train.json
    champion: Json  # champion.json
    params: Json  # the promote section
    evaluated: Path  # the folder in which the panels of metrics' disagreements lie
    durations: Path  # the benchmark's durations.csv
    links: Mapping[str, str]  # label -> where more is found
    time: str  # ISO, when it was decided
    by: str  # who decided

    @property
    def name(self) -> str:
        """The candidate as a reader calls it."""
        return f"{self.outcome['model_name']} version {self.outcome['version']}"

    @property
    def baseline(self) -> Json | None:
        """What metrics.json says of the champion, where both were scored; else None."""
        found = self.metrics.get("champion")
        return None if found is None or "not_compared" in found else found

    @property
    def not_compared(self) -> str | None:
        """Why there is no comparison though there is a champion."""
        found = self.metrics.get("champion")
        return None if found is None else found.get("not_compared")

    @property
    def runtime(self) -> str:
        """The runtime of the line, which decides."""
        return str(self.metrics["runtime"])

    def figure(self, name: str) -> Json:
        """A figure of the candidate with value, low and high; None in each that is not known."""
        return self.metrics["figures"].get(name) or NOTHING

    def champion_figure(self, name: str) -> Json:
        """The champion's, on the same images."""
        return NOTHING if self.baseline is None else self.baseline["figures"].get(name) or NOTHING

    def difference(self, name: str) -> Json:
        """Candidate minus champion, paired by groups."""
        return NOTHING if self.baseline is None else self.baseline["difference"].get(name) or NOTHING

    @property
    def classes(self) -> list[str]:
        """The defects' names; the background comes first in the scores and is left out."""
        return list(self.metrics["scores"]["iou"])[1:]


NOTHING: Json = {"value": None, "low": None, "high": None}


@dataclass(frozen=True)
class Verdict:
    """The outcome as the page's first words; `kind` is its style, one of four."""

    kind: str  # promoted | rejected | review | superseded
    word: str
    why: str
    now: str  # who is champion after it


def verdict(facts: Facts) -> Verdict:
    """What became of the candidate, why in one sentence, and who is champion now."""
    outcome, criteria = facts.outcome, facts.decision["criteria"]
    version, before, champion = (outcome[key] for key in ("version", "champion_before", "champion_now"))
    now = "There is no champion." if champion is None else f"Champion now: version {champion}."
    if before == champion == version:
        now = f"Version {version} is the champion already and stays."
    reasons, gate = _sentence(outcome["reasons"]), facts.decision["answer"]
    met = f"All {len(criteria)} criteria are met" if gate == "promoted" else "No criterion failed"
    if outcome["answer"] == "rejected" and gate != "rejected":  # the champion changed, or it was revoked
        return Verdict("superseded", "Not promoted, though it passed", f"{met}, but: {reasons}.", now)
    if outcome["answer"] == "rejected":
        unmet = sum(one["verdict"] in ("failed", "not measured") for one in criteria)
        counted = f"{unmet} of {len(criteria)} criteria {'is' if unmet == 1 else 'are'} not met"
        return Verdict("rejected", "Rejected", f"{counted}: {reasons}.", now)
    if outcome["answer"] == "needs review":
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
    split = facts.lineage["split"]
    if split["leaks"] != "yes":
        return (False, "No known leak: the audit found no test image that shows what a training image shows.")
    share = (split.get("leak_rate") or {}).get("test")
    counted = "Test images" if share is None else f"{100 * share:.1f} % of the test images"
    return True, (f"LEAKS: {counted} have a near-copy in training. The scores measure memory as much as skill.")


def seen_statement(facts: Facts) -> str | None:
    """How many of the test images the champion was trained on, which flatters it; None: no champion."""
    if facts.baseline is None:
        return None
    share, version = facts.baseline["seen"], facts.baseline["version"]
    if share is None:
        return f"It is not known how many of these test images version {version} was trained on."
    if share == 0:
        return f"Version {version} was trained on none of these test images: the comparison is fair."
    return (
        f"Version {version} was trained on {100 * share:.1f} % of these test images, "
        "so the comparison flatters it: a candidate as good looks worse than it is."
    )


def machine(facts: Facts) -> str:
    """The machine of the benchmark, its images and its threads."""
    speed = facts.benchmark
    hardware = speed["provenance"]["hardware"]
    parts = [hardware["cpu"], *hardware["gpus"], f"{hardware['cores']} cores", f"{speed['threads']} threads"]
    height, width = speed["size"]
    return f"{', '.join(parts)}, one image of {height} × {width} pixels at a time"
