"""Who was champion when, and why: what follows from the ledger's entries in order. Independent of MLflow."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
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
            state = _RULES[entry.kind](state, entry)
    return state


def _decision(state: State, entry: Entry) -> State:
    version, champion, answer = entry.version, state.champion, entry.answer or "rejected"
    if version == champion:
        texts = {
            "promoted": "was the champion already and stays",
            "rejected": "failed this time and stays champion all the same: a rejection moves no alias",
            "needs review": "is the champion already and stays",
        }
        return _next(state, entry, answer, f"version {version} {texts[answer]}")
    if answer == "rejected":
        return _without_challenger(_next(state, entry, "rejected", f"version {version} did not pass"), version)
    if numbers := state.revoked_as(version, entry.network):
        same = "" if numbers[0] == version else f"has the network of version {numbers[0]}, which "
        text = (
            f"version {version} {same}was revoked by {state.revoked[numbers[0]].by}; "
            f"`dbrnet registry approve {version}` brings it back"
        )
        return _next(state, entry, "superseded", text)
    if champion != entry.expected:
        return _overtaken(state, entry)
    if answer == "needs review":
        waiting = _next(state, entry, "needs review", f"version {version} waits for a person")
        return _challenged_by(waiting, version)
    return _set_champion(state, entry, "promoted", f"version {version} {_in_place_of(champion)}", entry.network)


def _approval(state: State, entry: Entry) -> State:
    if entry.version == state.champion:
        return _next(state, entry, "superseded", f"version {entry.version} was the champion already")
    if state.champion != entry.expected:
        return _overtaken(state, entry)
    text = f"{entry.by} approved version {entry.version}, which {_in_place_of(state.champion)}"
    return _set_champion(state, entry, "approved", text, entry.network)


def _rejection(state: State, entry: Entry) -> State:
    if entry.version == state.champion:
        return _next(state, entry, "superseded", f"version {entry.version} had become champion")
    after = _next(state, entry, "revoked", f"{entry.by} revoked version {entry.version}")
    return _revoke(_without_challenger(after, entry.version), entry.version, entry)


def _rollback(state: State, entry: Entry) -> State:
    if entry.version == state.champion:
        return _next(state, entry, "superseded", f"version {entry.version} was the champion already")
    if entry.expected is None or state.champion != entry.expected:
        return _overtaken(state, entry)
    text = f"{entry.by} rolled back from version {entry.expected} to version {entry.version}"
    after = _set_champion(state, entry, "rolled back", text)
    return _revoke(replace(after, replaced=state.replaced), entry.expected, entry)


def _adoption(state: State, entry: Entry) -> State:
    if state.events:
        return _next(state, entry, "superseded", "the ledger had begun already")
    return _set_champion(state, entry, "adopted", f"version {entry.version} was champion before the ledger began")


_RULES: dict[Kind, Callable[[State, Entry], State]] = {
    "decision": _decision,
    "approval": _approval,
    "rejection": _rejection,
    "rollback": _rollback,
    "adoption": _adoption,
}


def _next(state: State, entry: Entry, outcome: Outcome, text: str) -> State:
    """The state with one more event, which leaves champion and challenger unchanged."""
    event = Event(entry, outcome, text, state.champion, state.champion, state.challenger)
    return replace(state, events=(*state.events, event))


def _challenged_by(state: State, version: int | None) -> State:
    """The state with `version` as challenger, from its last event on."""
    *before, last = state.events
    return replace(state, challenger=version, events=(*before, replace(last, challenger_after=version)))


def _without_challenger(state: State, version: int) -> State:
    """The state in which `version` waits no longer, if it did."""
    return _challenged_by(state, None) if state.challenger == version else state


def _set_champion(state: State, entry: Entry, outcome: Outcome, text: str, network: str | None = None) -> State:
    version = entry.version
    restored = state.revoked_as(version, network)
    after = _without_challenger(_next(state, entry, outcome, text), version)
    *before, last = after.events
    return replace(
        after,
        champion=version,
        events=(*before, replace(last, champion_after=version)),
        revoked={number: revocation for number, revocation in state.revoked.items() if number not in restored},
        replaced=state.replaced | {version: state.champion},
    )


def _revoke(state: State, version: int, entry: Entry) -> State:
    on = "" if entry.time is None else f" on {entry.time:%Y-%m-%d}"
    why = "; ".join(entry.reasons)
    revocation = Revocation(f"{entry.by}{on}{why and f': {why}'}", entry.network)
    return replace(state, revoked=state.revoked | {version: revocation})


def _overtaken(state: State, entry: Entry) -> State:
    text = f"{name_of(state.champion)} had become champion since the comparison with {name_of(entry.expected)}"
    return _next(state, entry, "superseded", text)


def _in_place_of(previous: int | None) -> str:
    return "became the first champion" if previous is None else f"took over from version {previous}"


def name_of(version: int | None) -> str:
    """A version, or none, in a sentence."""
    return "none" if version is None else f"version {version}"
