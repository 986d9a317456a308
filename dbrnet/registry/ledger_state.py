"""Who was champion when, and why: what follows from the ledger's entries in order. It knows no MLflow."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from dbrnet.registry.gate import Answer

Kind = Literal["decision", "approval", "rejection", "rollback", "adoption"]
Outcome = Literal["promoted", "rejected", "needs review", "approved", "revoked", "rolled back", "adopted", "superseded"]


@dataclass(frozen=True)
class Entry:
    """One entry of the ledger, as it was appended: what somebody decided, and on what they had seen.

    `expected` is the champion that the candidate was compared with, or that the person saw: the entry moves
    the champion only if it is that one's turn still.
    """

    id: str
    kind: Kind
    version: int
    by: str
    expected: int | None = None
    answer: Answer | None = None  # a decision's
    reasons: tuple[str, ...] = ()
    run_id: str | None = None
    figures: dict[str, float] = field(default_factory=dict)
    network: str | None = None  # `versions.network_digest` of the version; a rollback's, of the one it leaves
    number: int = 0  # its place, given by the store
    time: datetime | None = None  # by the store's clock


@dataclass(frozen=True)
class Event:
    """What became of an entry, in its place."""

    entry: Entry
    outcome: Outcome
    text: str  # one sentence
    champion_before: int | None
    champion_after: int | None
    challenger_after: int | None

    @property
    def why(self) -> str:
        """The reasons that were given, or, where there were none or they did not count, what came of it."""
        return self.text if self.outcome == "superseded" else "; ".join(self.entry.reasons) or self.text

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON values."""
        entry = self.entry
        return {
            "number": entry.number,
            "time": entry.time and entry.time.isoformat(timespec="seconds"),
            "kind": entry.kind,
            "version": entry.version,
            "outcome": self.outcome,
            "champion_before": self.champion_before,
            "champion_after": self.champion_after,
            "by": entry.by,
            "why": self.why,
            "reasons": list(entry.reasons),
            "run_id": entry.run_id,
            "figures": entry.figures,
        }


@dataclass(frozen=True)
class Revocation:
    """A person's no to a version."""

    by: str  # whom, when and why, in words
    network: str | None  # `versions.network_digest`, where it is known


@dataclass(frozen=True)
class State:
    """Where the ledger has led to."""

    champion: int | None = None
    challenger: int | None = None
    revoked: dict[int, Revocation] = field(default_factory=dict)  # by version
    replaced: dict[int, int | None] = field(default_factory=dict)  # version -> the champion it took over from
    events: tuple[Event, ...] = ()

    def baseline(self, version: int | None) -> int | None:
        """Whom a candidate is compared with: the champion, or, being that itself, the one before it."""
        if version is None or version != self.champion:
            return self.champion
        return self.replaced.get(version)

    def compared_with(self, version: int) -> int | None:
        """The champion that `version` was compared with when the gate last decided on it, if it ever has."""
        decided = self.decided(version)
        return None if decided is None else decided.expected

    def decided(self, version: int) -> Entry | None:
        """The gate's last decision on `version`."""
        found = (e.entry for e in self.events if e.entry.kind == "decision" and e.entry.version == version)
        return max(found, key=lambda entry: entry.number, default=None)

    def revoked_as(self, version: int, network: str | None) -> list[int]:
        """The revoked versions that `version` is, by its number or by its network."""
        return sorted(
            (
                number
                for number, one in self.revoked.items()
                if number == version or (network is not None and one.network == network)
            ),
            key=lambda number: number != version,
        )

    def since(self, version: int) -> datetime | None:
        """When `version` last became champion."""
        moved = (e for e in self.events if e.champion_after == version != e.champion_before)
        return max((e.entry.time for e in moved if e.entry.time is not None), default=None)

    def event(self, id_: str) -> Event | None:
        """What became of the entry `id_`."""
        return next((event for event in self.events if event.entry.id == id_), None)


def replay(entries: Iterable[Entry]) -> State:
    """Play the entries in the order of their numbers; a second one of the same id was a retry."""
    state, seen = State(), set[str]()
    for entry in sorted(entries, key=lambda one: one.number):
        if entry.id not in seen:
            seen.add(entry.id)
            state = _RULES[entry.kind](state, entry)
    return state


def _decision(state: State, entry: Entry) -> State:
    version, champion = entry.version, state.champion
    if version == champion:
        said = {
            "promoted": "was the champion already and stays",
            "rejected": "failed this time and stays champion all the same: a rejection moves no alias",
            "needs review": "is the champion already and stays",
        }
        return _next(state, entry, entry.answer or "rejected", f"version {version} {said[entry.answer or 'rejected']}")
    if entry.answer == "rejected":
        challenger = None if state.challenger == version else state.challenger
        return _next(state, entry, "rejected", f"version {version} did not pass", challenger=challenger)
    if numbers := state.revoked_as(version, entry.network):
        same = "" if numbers[0] == version else f"has the network of version {numbers[0]}, which "
        text = (
            f"version {version} {same}was revoked by {state.revoked[numbers[0]].by}; "
            f"`dbrnet registry approve {version}` brings it back"
        )
        return _next(state, entry, "superseded", text)
    if champion != entry.expected:
        return _next(state, entry, "superseded", _overtaken(champion, entry.expected))
    if entry.answer == "needs review":
        return _next(state, entry, "needs review", f"version {version} waits for a person", challenger=version)
    return _set_champion(state, entry, "promoted", f"version {version} {_in_place_of(champion)}", entry.network)


def _approval(state: State, entry: Entry) -> State:
    if entry.version == state.champion:
        return _next(state, entry, "superseded", f"version {entry.version} was the champion already")
    if state.champion != entry.expected:
        return _next(state, entry, "superseded", _overtaken(state.champion, entry.expected))
    text = f"{entry.by} approved version {entry.version}, which {_in_place_of(state.champion)}"
    return _set_champion(state, entry, "approved", text, entry.network)


def _rejection(state: State, entry: Entry) -> State:
    if entry.version == state.champion:
        return _next(state, entry, "superseded", f"version {entry.version} had become champion")
    challenger = None if state.challenger == entry.version else state.challenger
    text = f"{entry.by} withdrew version {entry.version}"
    after = _next(state, entry, "revoked", text, challenger=challenger)
    return _withdraw(after, entry.version, entry)


def _rollback(state: State, entry: Entry) -> State:
    if entry.version == state.champion:
        return _next(state, entry, "superseded", f"version {entry.version} was the champion already")
    if entry.expected is None or state.champion != entry.expected:
        return _next(state, entry, "superseded", _overtaken(state.champion, entry.expected))
    text = f"{entry.by} rolled back from version {entry.expected} to version {entry.version}"
    after = _set_champion(state, entry, "rolled back", text)
    return _withdraw(replace(after, replaced=state.replaced), entry.expected, entry)


def _adoption(state: State, entry: Entry) -> State:
    if state.events:
        return _next(state, entry, "superseded", "the ledger had begun already")
    return _set_champion(state, entry, "adopted", f"version {entry.version} was champion before the ledger began")


_RULES = {
    "decision": _decision,
    "approval": _approval,
    "rejection": _rejection,
    "rollback": _rollback,
    "adoption": _adoption,
}


def _set_champion(state: State, entry: Entry, outcome: Outcome, text: str, network: str | None = None) -> State:
    version = entry.version
    back = state.revoked_as(version, network)
    challenger = None if state.challenger == version else state.challenger
    return replace(
        _next(state, entry, outcome, text, champion=version, challenger=challenger),
        revoked={number: one for number, one in state.revoked.items() if number not in back},
        replaced=state.replaced | {version: state.champion},
    )


def _withdraw(state: State, version: int, entry: Entry) -> State:
    revocation = Revocation(_by_whom(entry), entry.network)
    return replace(state, revoked=state.revoked | {version: revocation})


_KEPT: Any = object()


def _next(
    state: State, entry: Entry, outcome: Outcome, text: str, *, champion: Any = _KEPT, challenger: Any = _KEPT
) -> State:
    after = state.champion if champion is _KEPT else champion
    waiting = state.challenger if challenger is _KEPT else challenger
    event = Event(entry, outcome, text, state.champion, after, waiting)
    return replace(state, champion=after, challenger=waiting, events=(*state.events, event))


def _overtaken(champion: int | None, expected: int | None) -> str:
    return f"{name_of(champion)} had become champion since the comparison with {name_of(expected)}"


def _in_place_of(previous: int | None) -> str:
    return "became the first champion" if previous is None else f"took over from version {previous}"


def name_of(version: int | None) -> str:
    """A version, or none, in a sentence."""
    return "none" if version is None else f"version {version}"


def _by_whom(entry: Entry) -> str:
    on = "" if entry.time is None else f" on {entry.time:%Y-%m-%d}"
    why = "; ".join(entry.reasons)
    return f"{entry.by}{on}{why and f': {why}'}"
