"""Decisions carried out: the gate's, and those of people. Each is an entry of the ledger, then an alias.

Every function may be killed at any point and called again, and may run in many processes at once: the ledger
decides, once, and all agree on it. A person's act first carries out what a killed one has left.
"""

import getpass
import os
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from dbrnet.addresses import redact
from dbrnet.errors import JobError, UserError
from dbrnet.registry.gate import Answer
from dbrnet.registry.ledger import CHAMPION, Ledger
from dbrnet.registry.ledger_state import Entry, Event, Kind, State, name_of
from dbrnet.registry.store import Store, repeatable
from dbrnet.registry.versions import network_of


@dataclass(frozen=True)
class Promotion:
    """What became of a candidate: its version, and who was champion before and after."""

    answer: Answer
    model_name: str
    version: int
    champion_before: int | None
    champion_after: int | None
    champion_now: int | None  # another than after it, where the decision is an old one, told again
    challenger: int | None
    reasons: tuple[str, ...]
    entry: int  # its number in the ledger
    time: str  # ISO, by the store's clock
    by: str

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return asdict(self) | {"reasons": list(self.reasons)}


def record(
    store: Store,
    model_name: str,
    version: int,
    *,
    answer: Answer,
    reasons: Sequence[str],
    compared_with: int | None,
    decision_id: str,
    run_id: str,
    figures: Mapping[str, float],
    dry_run: bool = False,
) -> Promotion:
    """Enter the gate's answer on `version` and carry it out.

    "promoted" moves the champion only if that is still `compared_with`, and no person has revoked the
    version or another with its network; otherwise the answer becomes "rejected", and the reason says so. The
    same `decision_id` again is the same decision: it is not entered twice, and its outcome is told again.
    `dry_run` writes nothing and returns the outcome that an entry made now would have. Another's entry may
    come first, so the outcome may differ when it is recorded; its time and number do where it is new.
    """
    ledger = Ledger(store, model_name)
    entry = Entry(
        id=decision_id,
        kind="decision",
        version=version,
        by="the gate",
        expected=compared_with,
        answer=answer,
        reasons=tuple(reasons),
        run_id=run_id,
        figures=dict(figures),
        network=network_of(store, model_name, version),
    )
    if dry_run:
        state = ledger.state_with(entry)
    else:
        ledger.append(entry)
        state = ledger.reconcile()
    event = state.event(decision_id)
    if event is None:
        raise JobError(f"the ledger {ledger.log_name} has lost the entry {decision_id}; run the step again")
    became: Answer = "rejected" if event.outcome == "superseded" else answer
    told = (event.text,) if event.outcome == "superseded" else tuple(reasons)
    if became == "rejected" and event.champion_after == version:
        told = (*told, event.text)
    return Promotion(
        became,
        model_name,
        version,
        event.champion_before,
        event.champion_after,
        state.champion,
        event.challenger_after,
        told,
        event.entry.number,
        _iso(event),
        event.entry.by,
    )


@repeatable
def describe(store: Store, model_name: str, version: int, text: str) -> None:
    """Make `text` (Markdown) the version's description."""
    with store.asked() as client:
        if client.get_model_version(model_name, str(version)).description != text:
            client.update_model_version(model_name, str(version), text)


def approve(store: Store, model_name: str, version: int, *, why: str | None) -> Event:
    """Make `version` champion, as a person's decision.

    That needs a why, unless the version waits for a review and was compared with the present champion.
    """
    ledger = Ledger(store, model_name)
    state = ledger.reconcile()
    network = network_of(store, model_name, version)
    if state.champion == version:
        raise UserError(f"{model_name} version {version} is the champion already")
    if state.challenger != version and not why:
        raise UserError(f"{model_name} version {version} is not waiting for a review: say --why all the same")
    compared = state.compared_with(version)
    if compared != state.champion and not why:
        raise UserError(
            f"{model_name} version {version} was compared with {name_of(compared)}, not with "
            f"{name_of(state.champion)}, the champion now: run the pipeline again, or say --why all the same"
        )
    return _enter(ledger, _entry("approval", version, state, why, network))


def reject(store: Store, model_name: str, version: int, *, why: str) -> Event:
    """Withdraw `version`, as a person's decision: the gate cannot promote it until a person approves it."""
    ledger = Ledger(store, model_name)
    state = ledger.reconcile()
    network = network_of(store, model_name, version)
    if state.champion == version:
        raise UserError(f"{model_name} version {version} is the champion: roll back instead")
    if version in state.revoked:
        raise UserError(f"{model_name} version {version} was revoked already, by {state.revoked[version].by}")
    return _enter(ledger, _entry("rejection", version, state, why, network))


def rollback(store: Store, model_name: str, *, to: int | None, why: str) -> Event:
    """Make a previous champion champion again: `to`, or the one before; the present one is revoked.

    Raises `JobError` where the alias has not followed the ledger yet, when it is `to` none: then this may be
    a rollback that was killed and is tried again, and a second one would go back too far.
    """
    ledger = Ledger(store, model_name)
    seen, state = ledger.aliases().get(CHAMPION), ledger.reconcile()
    if state.champion is None:
        raise UserError(f"{model_name} has no champion to roll back from")
    try:
        left, there = network_of(store, model_name, state.champion), True
    except UserError:  # somebody deleted it, and with it its alias
        left, there = None, False
    if to is None and there and seen != state.champion:
        raise JobError(
            f"nothing was changed but the alias, which did not follow the ledger: {name_of(state.champion)} "
            "is champion; look at `dbrnet registry history`, and roll back again if it should not be"
        )
    target = state.replaced.get(state.champion) if to is None else to
    if target is None:
        raise UserError(f"{model_name}: there was no champion before version {state.champion}")
    if target == state.champion:
        raise UserError(f"{model_name} version {target} is the champion already")
    if target not in {event.champion_after for event in state.events}:
        raise UserError(f"{model_name} version {target} was never champion; `dbrnet registry approve` makes it one")
    network_of(store, model_name, target)  # that is, it must be there
    return _enter(ledger, _entry("rollback", target, state, why, left))


def person() -> str:
    """Who is deciding: the name that the tracking server knows, or the login name."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"


def _enter(ledger: Ledger, entry: Entry) -> Event:
    """Append a person's decision and carry it out; raises `JobError` where somebody else was quicker."""
    ledger.append(entry)
    event = ledger.reconcile().event(entry.id)
    if event is None or event.outcome == "superseded":
        raise JobError(f"nothing was changed: {event.text if event else 'the entry is lost'}; look again")
    return event


def _entry(kind: Kind, version: int, state: State, why: str | None, network: str | None) -> Entry:
    return Entry(
        uuid.uuid4().hex,
        kind,
        version,
        person(),
        state.champion,
        reasons=(redact(why),) if why else (),
        network=network,
    )


def _iso(event: Event) -> str:
    return (event.entry.time or datetime.now(UTC)).isoformat(timespec="seconds")
