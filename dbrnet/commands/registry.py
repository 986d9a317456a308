"""`dbrnet registry`: who is champion, since when and why, and manual approval."""

import re
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from dbrnet.commands import OPERATE, Json, app, print_json
from dbrnet.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbrnet.records import Estimate
    from dbrnet.registry.ledger import Ledger
    from dbrnet.registry.ledger_state import Event, State
    from dbrnet.registry.store import Store

WIDTH = 100
KEY = 38  # the width of a figure's name
PARAMS = Path("params.yaml")

registry = App(
    name="registry", group=OPERATE, help="Tell who is champion, since when and why; approve, reject, roll back."
)
app.command(registry)
ModelName = Annotated[
    str | None, Parameter(help="the model in MLflow's registry (default: fetch_champion.model_name of params.yaml)")
]
Version = Annotated[int, Parameter(help="the version's number")]
Why = Annotated[str, Parameter(help="the reason, for those who come after")]


@registry.command
def history(
    *, model_name: ModelName = None, at: str | None = None, html: Path | None = None, json: Json = False
) -> None:
    """Tell every decision in order: what, when, by whom, why, and who was champion after it.

    For example:

        dbrnet registry history
        dbrnet registry history --at 2026-11-01T06:00 --html ledger.html

    Args:
        at: a time, such as 2026-11-01 or 2026-11-01T06:00 (UTC unless it says otherwise): tell who was champion then
        html: a file to write the history's page to
    """
    from dbrnet.files import write_atomically
    from dbrnet.registry.ledger import CHAMPION
    from dbrnet.reports.ledger_page import render_history

    moment = None
    if at is not None:
        try:
            moment = datetime.fromisoformat(at)
        except ValueError:
            raise UserError(f"--at {at}: give a time such as 2026-11-01 or 2026-11-01T06:00") from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    model = _Model.open(model_name)
    state = model.ledger.state(moment)
    if html is not None:
        write_atomically(html, render_history(model.name, state.events))
    moved = model.ledger.aliases().get(CHAMPION)
    if json:
        since = None if state.champion is None else state.since(state.champion)
        standing = {"model": model.name, "champion": state.champion, "since": since, "challenger": state.challenger}
        print_json(standing | {"alias": moved, "events": [event.to_dict() for event in state.events]})
        return
    _print(model.standing(state, at), "")
    for event in state.events:
        _print(*_lines(event))
    if at is None and state.events and moved != state.champion:
        champion = "nobody" if moved is None else f"version {moved}"
        _print("", f"The alias {CHAMPION} points to {champion}: it was moved by hand, or somebody's decision")
        _print("was cut off. The ledger decides, and the next decision, or the last one again, puts it right.")


@registry.command
def show(version: Version, /, *, model_name: ModelName = None, json: Json = False) -> None:
    """Tell what is known of a version: what it rests on, and every decision on it.

    For example:

        dbrnet registry show 3
        dbrnet registry show 3 --json
    """
    model = _Model.open(model_name)
    state = model.ledger.state()
    facts = model.describe(version, state)
    role = "champion" if version == state.champion else "challenger" if version == state.challenger else None
    revoked = state.revoked[version].by if version in state.revoked else None
    events = [event for event in state.events if version in (event.entry.version, event.entry.expected)]
    if json:
        standing = {"model": model.name, "version": version, "role": role, "revoked": revoked}
        print_json(standing | {"facts": _values(facts), "events": [event.to_dict() for event in events]})
        return
    _print(f"{model.name} version {version}" + (f", {role}" if role else ""), "")
    if revoked:
        _print(f"revoked by {revoked}", "")
    for key, value in facts.items():
        text = textwrap.wrap(str(value), WIDTH - KEY, subsequent_indent=" " * KEY) or [""]
        _print(f"{key:<{KEY}}" + "\n".join(text))
    _print("", *(line for event in events for line in _lines(event)))


@registry.command
def diff(version: Version, other: Version, /, *, model_name: ModelName = None, json: Json = False) -> None:
    """Set two versions side by side; a star marks where they differ.

    For example:

        dbrnet registry diff 3 4
        dbrnet registry diff 3 4 --model-name strip-north
    """
    model = _Model.open(model_name)
    state = model.ledger.state()
    left, right = (model.describe(number, state) for number in (version, other))
    if json:
        print_json({"model": model.name, "versions": {version: _values(left), other: _values(right)}})
        return
    _print(f"  {'':<{KEY}}{f'version {version}':<30}version {other}")
    for key in dict.fromkeys([*left, *right]):
        first, second = (str(facts.get(key, "-")) for facts in (left, right))
        cells = (text if len(text) <= 28 else f"{text[:27]}…" for text in (first, second))
        _print(f"{'*' if first != second else ' '} {key:<{KEY}}" + "{:<30}{}".format(*cells))


@registry.command
def approve(version: Version, /, *, why: str | None = None, model_name: ModelName = None) -> None:
    """Make a version champion: the one that waits for a review, or another with a reason.

    For example:

        dbrnet registry approve 4
        dbrnet registry approve 3 --why 'version 4 misses cracks'

    Args:
        why: the reason, for those who come after; needed where the version does not wait for a review
    """
    from dbrnet.registry import promotion

    model = _Model.open(model_name)
    model.tell(promotion.approve(model.store, model.name, version, why=why))


@registry.command
def reject(version: Version, /, *, why: Why, model_name: ModelName = None) -> None:
    """Revoke a version: the gate cannot promote it until somebody approves it.

    For example:

        dbrnet registry reject 4 --why 'wrong labels'
        dbrnet registry reject 4 --why 'wrong labels' --model-name strip-north
    """
    from dbrnet.registry import promotion

    model = _Model.open(model_name)
    model.tell(promotion.reject(model.store, model.name, version, why=why))


@registry.command
def rollback(*, why: Why, to: int | None = None, model_name: ModelName = None) -> None:
    """Make the previous champion, or an earlier one, champion again; the present one is revoked.

    For example:

        dbrnet registry rollback --why 'false positives on line 2'
        dbrnet registry rollback --to 2 --why 'as agreed'

    Args:
        to: the version to go back to; without it the previous champion
    """
    from dbrnet.registry import promotion

    model = _Model.open(model_name)
    model.tell(promotion.rollback(model.store, model.name, to=to, why=why))


@dataclass(frozen=True)
class _Model:
    """A registered model and its ledger."""

    name: str
    store: "Store"
    ledger: "Ledger"

    @classmethod
    def open(cls, model_name: str | None) -> "_Model":
        """The model that is named here or in params.yaml. Creates nothing; a `UserError` if there is none."""
        from dbrnet.config import MODEL_NAME, load_params
        from dbrnet.registry.ledger import Ledger
        from dbrnet.registry.store import open_store
        from dbrnet.registry.versions import registered_models

        if model_name is None and not PARAMS.exists():
            raise UserError(f"{PARAMS} is not in this folder; say which model with --model-name")
        name = model_name or load_params(PARAMS).fetch_champion.model_name
        if not re.fullmatch(MODEL_NAME, name):
            raise UserError(f"--model-name {name}: a name has letters, digits, dots, hyphens and underscores")
        store = open_store(Path.cwd())
        known = registered_models(store)
        if name not in known:
            raise UserError(f"there is no model {name} in {store}; its models: {', '.join(known) or 'none yet'}")
        return cls(name, store, Ledger(store, name))

    def describe(self, version: int, state: "State") -> "dict[str, str | Estimate]":
        """The facts about a version, and the figures on which the gate last decided."""
        from dbrnet.registry.versions import describe_version

        decided = state.decided(version)
        figures = {} if decided is None else decided.figures.estimates
        facts = describe_version(self.store, self.name, version)
        return facts | {f"test {name}": figure for name, figure in sorted(figures.items())}

    def standing(self, state: "State", at: str | None = None) -> str:
        """Who is champion and who waits, as a sentence."""
        when = "" if at is None else f" at {at}"
        if state.champion is None:
            return f"{self.name}: no champion{when or ' yet'}"
        since = state.since(state.champion)
        began = f", since {since:%Y-%m-%d %H:%M} UTC" if since else ""
        waits = "" if state.challenger is None else f"; version {state.challenger} waits for a review"
        return f"{self.name}: version {state.champion} is champion{when}{began}{waits}"

    def tell(self, event: "Event") -> None:
        """Print a decision and who is champion after it."""
        _print(*_lines(event), "", self.standing(self.ledger.state()))


def _values(facts: "Mapping[str, str | Estimate]") -> dict[str, Any]:
    """The facts as JSON values: figures are fractions there."""
    return {name: fact if isinstance(fact, str) else fact.value for name, fact in facts.items()}


def _lines(event: "Event") -> list[str]:
    """An entry as the terminal shows it: a line, and the reasons beneath it."""
    from dbrnet.records import format_value

    entry = event.entry
    columns = (
        f"{entry.number:>4}",
        f"{entry.time:%Y-%m-%d %H:%M}" if entry.time else " " * 16,
        f"version {entry.version:<4}",
        f"{event.outcome:<13}",
        f"champion {event.champion_after or 'none':<5}",
        f"{'' if entry.figures.miou is None else 'mIoU ' + format_value(entry.figures.miou, 'share'):<11}",
        entry.by,
    )
    why = textwrap.wrap(event.why, WIDTH - 24, initial_indent=" " * 24, subsequent_indent=" " * 24)
    return ["  ".join(columns), *why]


def _print(*lines: str) -> None:
    for line in lines:
        print(line)  # noqa: T201
