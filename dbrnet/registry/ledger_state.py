"""Who was champion when, and why: what follows from the ledger's entries in order. Independent of MLflow."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar, Literal

from pydantic import ConfigDict, JsonValue

from dbrnet.records import Answer, Estimate

Kind = Literal["decision", "approval", "rejection", "rollback", "adoption"]
Outcome = Literal["promoted", "rejected", "needs review", "approved", "revoked", "rolled back", "adopted", "superseded"]


@dataclass(frozen=True)
class KeyFigures:
    """What the ledger keeps of a decision's figures; None: not measured."""

    miou: float | None = None
    difference: float | None = None  # of the mIoU from the champion's
    fps: float | None = None

    @property
    def estimates(self) -> dict[str, Estimate]:
        """Those that were measured, by name."""
        figures = {
            "miou": Estimate(value=self.miou, unit="share"),
            "difference": Estimate(value=self.difference, unit="points"),
            "fps": Estimate(value=self.fps, unit="fps"),
        }
        return {name: figure for name, figure in figures.items() if figure.value is not None}


NO_FIGURES = KeyFigures()


@dataclass(frozen=True)
class Entry:
    """One entry of the ledger, as it was appended: what was decided, and on what evidence.

    `expected` is the champion that the candidate was compared with, or that the person saw. The entry moves
    the champion only if that one is champion still.
    """

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")

    id: str
    kind: Kind
    version: int
    by: str
    expected: int | None = None
    answer: Answer | None = None  # a decision's
    reasons: tuple[str, ...] = ()
    run_id: str | None = None
    figures: KeyFigures = NO_FIGURES
    network: str | None = None  # `versions.network_digest` of the version; for a rollback, of the one it leaves
    number: int = 0  # its place, given by the store
    time: datetime | None = None  # by the store's clock

    @property
    def description(self) -> str:
        """The entry in Markdown, for MLflow's page."""
        heading = {
            "decision": f"The gate on version {self.version}: {self.answer}",
            "approval": f"{self.by} approves version {self.version}",
            "rejection": f"{self.by} rejects version {self.version}",
            "rollback": f"{self.by} rolls back from version {self.expected} to version {self.version}",
            "adoption": f"Version {self.version} was champion before this ledger began",
        }[self.kind]
        return "\n".join([f"**{heading}**", "", *(f"- {reason}" for reason in self.reasons)]).rstrip() + "\n"


@dataclass(frozen=True)
class Event:
    """What became of an entry."""

    entry: Entry
    outcome: Outcome
    text: str  # one sentence
    champion_before: int | None
    champion_after: int | None
    challenger_after: int | None

    @property
    def why(self) -> str:
        """The given reasons; where there are none or the entry had no effect, the text."""
        return self.text if self.outcome == "superseded" else "; ".join(self.entry.reasons) or self.text

    def to_dict(self) -> dict[str, JsonValue]:
        """The event as JSON values, for scripts."""
        entry = self.entry
        return {
            "number": entry.number,
            "time": entry.time.isoformat(timespec="seconds") if entry.time else None,
            "kind": entry.kind,
            "version": entry.version,
            "outcome": self.outcome,
            "champion_before": self.champion_before,
            "champion_after": self.champion_after,
            "by": entry.by,
            "why": self.why,
            "reasons": list(entry.reasons),
            "run_id": entry.run_id,
            "figures": {name: figure.value for name, figure in entry.figures.estimates.items()},
        }


@dataclass(frozen=True)
class Revocation:
    """A person's rejection of a version."""

    by: str  # who, when and why, in words
    network: str | None  # `versions.network_digest`, where it is known


@dataclass(frozen=True)
class State:
    """The state after replaying the ledger."""

    champion: int | None = None
    challenger: int | None = None
    revoked: dict[int, Revocation] = field(default_factory=dict)  # by version
    replaced: dict[int, int | None] = field(default_factory=dict)  # version -> the champion it took over from
    events: tuple[Event, ...] = ()

    def baseline(self, version: int | None) -> int | None:
        """The version to compare a candidate with: the champion, or the one before where it is that itself."""
        if version is None or version != self.champion:
            return self.champion
        return self.replaced.get(version)

    def compared_with(self, version: int) -> int | None:
        """The champion that `version` was compared with in the gate's last decision on it, if there is one."""
        decision = self.decided(version)
        return None if decision is None else decision.expected

    def decided(self, version: int) -> Entry | None:
        """The gate's last decision on `version`."""
        decisions = (e.entry for e in self.events if e.entry.kind == "decision" and e.entry.version == version)
        return max(decisions, key=lambda entry: entry.number, default=None)

    def revoked_as(self, version: int, network: str | None) -> list[int]:
        """The revoked versions with this number or this network, the number itself first."""
        same = (
            number
            for number, revocation in self.revoked.items()
            if number == version or (network is not None and revocation.network == network)
        )
        return sorted(same, key=lambda number: number != version)

    def since(self, version: int) -> datetime | None:
        """When `version` last became champion."""
        moves = (e for e in self.events if e.champion_after == version != e.champion_before)
        return max((e.entry.time for e in moves if e.entry.time is not None), default=None)

    def event(self, id_: str) -> Event | None:
        """What became of the entry `id_`."""
        return next((event for event in self.events if event.entry.id == id_), None)


def replay(entries: Iterable[Entry]) -> State:
    """Replay the entries in the order of their numbers; a second one of the same id was a retry."""
    state, seen = State(), set[str]()
    for entry in sorted(entries, key=lambda entry: entry.number):
        if entry.id not in seen:
            seen.add(entry.id)
            state = _after(state, entry, *_judge(state, entry))
    return state


def _judge(state: State, entry: Entry) -> tuple[Outcome, str]:
    """What becomes of the next entry, and the sentence that says it."""
    version, champion, by = entry.version, state.champion, entry.by
    overtaken = f"{name_of(champion)} had become champion since the comparison with {name_of(entry.expected)}"
    in_place = "became the first champion" if champion is None else f"took over from version {champion}"
    match entry.kind:
        case "decision":
            return _judge_decision(state, entry, overtaken, f"version {version} {in_place}")
        case "adoption" if state.events:
            return "superseded", "the ledger had begun already"
        case "adoption":
            return "adopted", f"version {version} was champion before the ledger began"
        case "rejection" if version == champion:
            return "superseded", f"version {version} had become champion"
        case "rejection":
            return "revoked", f"{by} revoked version {version}"
        case _ if version == champion:
            return "superseded", f"version {version} was the champion already"
        case _ if champion != entry.expected or (entry.kind == "rollback" and champion is None):
            return "superseded", overtaken
        case "approval":
            return "approved", f"{by} approved version {version}, which {in_place}"
        case "rollback":
            return "rolled back", f"{by} rolled back from version {champion} to version {version}"


def _judge_decision(state: State, entry: Entry, overtaken: str, promoted: str) -> tuple[Outcome, str]:
    version, answer = entry.version, entry.answer or "rejected"
    if version == state.champion:
        texts = {
            "promoted": "was the champion already and stays",
            "rejected": "failed this time and stays champion all the same: a rejection moves no alias",
            "needs review": "is the champion already and stays",
        }
        return answer, f"version {version} {texts[answer]}"
    if answer == "rejected":
        return "rejected", f"version {version} did not pass"
    if numbers := state.revoked_as(version, entry.network):
        same = "" if numbers[0] == version else f"has the network of version {numbers[0]}, which "
        by = state.revoked[numbers[0]].by
        return (
            "superseded",
            f"version {version} {same}was revoked by {by}; `dbrnet registry approve {version}` brings it back",
        )
    if state.champion != entry.expected:
        return "superseded", overtaken
    return answer, promoted if answer == "promoted" else f"version {version} waits for a person"


def _after(state: State, entry: Entry, outcome: Outcome, text: str) -> State:
    """The state after an entry: the outcome alone says who is champion, who waits and who is revoked."""
    version, before = entry.version, state.champion
    champion, challenger, revoked, replaced = before, state.challenger, dict(state.revoked), state.replaced
    if version != before and outcome != "superseded":
        if outcome == "needs review":
            challenger = version
        elif challenger == version:
            challenger = None
        if outcome in ("promoted", "approved", "rolled back", "adopted"):
            champion = version
            network = None if outcome == "rolled back" else entry.network  # its entry has that of the one it leaves
            for number in state.revoked_as(version, network):
                del revoked[number]
            if outcome != "rolled back":  # who went back did not take over
                replaced = replaced | {version: before}
        if (left := {"revoked": version, "rolled back": before}.get(outcome)) is not None:
            on = "" if entry.time is None else f" on {entry.time:%Y-%m-%d}"
            why = "; ".join(entry.reasons)
            revoked[left] = Revocation(f"{entry.by}{on}{why and f': {why}'}", entry.network)
    event = Event(entry, outcome, text, before, champion, challenger)
    return State(champion, challenger, revoked, replaced, (*state.events, event))


def name_of(version: int | None) -> str:
    """A version, or none, in a sentence."""
    return "none" if version is None else f"version {version}"
