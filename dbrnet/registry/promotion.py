"""Decisions carried out: the gate's and people's. Each is an entry of the ledger, then an alias.

Every function may be killed at any point and called again, and may run in many processes at once: the ledger
decides once, and all agree on it. A person's decision first completes what a killed process has left.
"""

import getpass
import os
import uuid
from datetime import UTC, datetime

from dbrnet.addresses import redact
from dbrnet.errors import JobError, UserError
from dbrnet.records import Decision, Promotion
from dbrnet.registry.ledger import CHAMPION, Ledger
from dbrnet.registry.ledger_state import Entry, Event, KeyFigures, Kind, State, name_of
from dbrnet.registry.store import Store, repeatable
from dbrnet.registry.versions import network_of


def record(
    store: Store,
    model_name: str,
    version: int,
    decision: Decision,
    *,
    compared_with: int | None,
    decision_id: str,
    run_id: str,
    figures: KeyFigures,
    dry_run: bool = False,
) -> Promotion:
    """Enter the gate's decision on `version` and carry it out.

    "promoted" moves the champion only if that is still `compared_with`, and no person has revoked the
    version or another with its network; otherwise the answer becomes "rejected", and the reason says so. The
    same `decision_id` again is the same decision, entered once. `dry_run` writes nothing and returns the
    outcome that an entry made now would have; where another entry comes first, it may differ when recorded.
    """
    ledger = Ledger(store, model_name)
    entry = Entry(
        id=decision_id,
        kind="decision",
        version=version,
        by="the gate",
        expected=compared_with,
        answer=decision.answer,
        reasons=decision.reasons,
        run_id=run_id,
        figures=figures,
        network=network_of(store, model_name, version),
    )
    if not dry_run:
        ledger.append(entry)
    state = ledger.state_with(entry) if dry_run else ledger.reconcile()
    event = state.event(decision_id)
    if event is None:
        raise JobError(f"the ledger {ledger.log_name} has lost the entry {decision_id}; run the step again")
    answer, reasons = decision.answer, decision.reasons
    if event.outcome == "superseded":
        answer, reasons = "rejected", (event.text,)
    if answer == "rejected" and event.champion_after == version:
        reasons = (*reasons, event.text)
    return Promotion(
        answer=answer,
        model_name=model_name,
        version=version,
        champion_before=event.champion_before,
        champion_after=event.champion_after,
        champion_now=state.champion,
        challenger=event.challenger_after,
        reasons=reasons,
        entry=event.entry.number,
        time=(event.entry.time or datetime.now(UTC)).isoformat(timespec="seconds"),
        by=event.entry.by,
    )


@repeatable
def describe(store: Store, model_name: str, version: int, text: str) -> None:
    """Make `text` (Markdown) the version's description."""
    with store.client_session() as client:
        if client.get_model_version(model_name, str(version)).description != text:
            client.update_model_version(model_name, str(version), text)


def approve(store: Store, model_name: str, version: int, *, why: str | None) -> Event:
    """Make `version` champion, as a person's decision.

    That needs a reason, unless the version waits for a review and was compared with the present champion.
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
    return _enter(ledger, "approval", version, state, why, network)


def reject(store: Store, model_name: str, version: int, *, why: str) -> Event:
    """Revoke `version`, as a person's decision: the gate cannot promote it until a person approves it."""
    ledger = Ledger(store, model_name)
    state = ledger.reconcile()
    network = network_of(store, model_name, version)
    if state.champion == version:
        raise UserError(f"{model_name} version {version} is the champion: roll back instead")
    if version in state.revoked:
        raise UserError(f"{model_name} version {version} was revoked already, by {state.revoked[version].by}")
    return _enter(ledger, "rejection", version, state, why, network)


def rollback(store: Store, model_name: str, *, to: int | None, why: str) -> Event:
    """Make a previous champion champion again: `to`, or the one before; the present one is revoked.

    Without `to`, raises `JobError` where the alias has not followed the ledger yet: this may be the second
    try of a rollback that was killed, and a second rollback would go back too far.
    """
    ledger = Ledger(store, model_name)
    alias, state = ledger.aliases().get(CHAMPION), ledger.reconcile()
    if state.champion is None:
        raise UserError(f"{model_name} has no champion to roll back from")
    try:
        network, exists = network_of(store, model_name, state.champion), True
    except UserError:  # somebody deleted it, and with it its alias
        network, exists = None, False
    if to is None and exists and alias != state.champion:
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
    network_of(store, model_name, target)  # raises where it was deleted
    return _enter(ledger, "rollback", target, state, why, network)


def person() -> str:
    """Who is deciding: the name that the tracking server knows, or the login name."""
    try:
        return os.environ.get("MLFLOW_TRACKING_USERNAME") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"


def _enter(ledger: Ledger, kind: Kind, version: int, state: State, why: str | None, network: str | None) -> Event:
    """Append a person's decision and carry it out; raises `JobError` where another decision came first."""
    entry = Entry(
        id=uuid.uuid4().hex,
        kind=kind,
        version=version,
        by=person(),
        expected=state.champion,
        reasons=(redact(why),) if why else (),
        network=network,
    )
    ledger.append(entry)
    event = ledger.reconcile().event(entry.id)
    if event is None or event.outcome == "superseded":
        raise JobError(f"nothing was changed: {event.text if event else 'the entry is lost'}; look again")
    return event
