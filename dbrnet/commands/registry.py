"""`dbrnet registry`: who is champion, since when and why, and a person's say in it."""

import re
import textwrap
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from dbrnet.config import MODEL_NAME, load_params
from dbrnet.errors import UserError
from dbrnet.files import write_atomically
from dbrnet.records import format_value
from dbrnet.registry import promotion
from dbrnet.registry.ledger import CHAMPION, Ledger
from dbrnet.registry.ledger_state import Event, State
from dbrnet.registry.store import Store, open_store
from dbrnet.registry.versions import describe_version, registered_models
from dbrnet.reports.ledger_page import render_history

WIDTH = 100
KEY = 38  # the width of a figure's name
PARAMS = Path("params.yaml")


def history(*, model_name: str | None = None, at: str | None = None, html: Path | None = None) -> None:
    """Tell every decision in order: what, when, by whom, why, and who was champion after it.

    --at tells who was champion at a time, and what had led to it; --html writes the history as a page.
    """
    registry = _Registry.open(model_name)
    state = registry.ledger.state(at=None if at is None else _time(at))
    if html is not None:
        write_atomically(html, render_history(registry.name, state.events))
    _print(_standing(registry.name, state, at), "")
    for event in state.events:
        _print(*_lines(event))
    moved = registry.ledger.aliases().get(CHAMPION)
    if at is None and state.events and moved != state.champion:
        _print("", f"The alias {CHAMPION} points to {_named(moved)}: it was moved by hand, or somebody's decision")
        _print("was cut off. The ledger decides, and the next decision, or the last one again, puts it right.")


def show(version: int, *, model_name: str | None = None) -> None:
    """Tell what is known of a version: what it rests on, and every decision on it."""
    registry = _Registry.open(model_name)
    state = registry.ledger.state()
    found = registry.known(version, state)
    role = "champion" if version == state.champion else "challenger" if version == state.challenger else None
    _print(f"{registry.name} version {version}" + (f", {role}" if role else ""), "")
    if version in state.revoked:
        _print(f"revoked by {state.revoked[version].by}", "")
    _print(*(_row(key, value) for key, value in found.items()), "")
    for event in state.events:
        if version in (event.entry.version, event.entry.expected):
            _print(*_lines(event))


def diff(version: int, other: int, *, model_name: str | None = None) -> None:
    """Set two versions side by side; a star marks where they differ."""
    registry = _Registry.open(model_name)
    state = registry.ledger.state()
    left, right = (registry.known(one, state) for one in (version, other))
    _print(f"  {'':<{KEY}}{f'version {version}':<30}version {other}")
    for key in dict.fromkeys([*left, *right]):
        one, two = left.get(key, "-"), right.get(key, "-")
        _print(f"{'*' if one != two else ' '} {key:<{KEY}}{_cut(one, 28):<30}{_cut(two, 28)}")


def approve(version: int, *, why: str | None = None, model_name: str | None = None) -> None:
    """Make a version champion. One that does not wait for a review needs a reason (--why)."""
    registry = _Registry.open(model_name)
    _tell(registry, promotion.approve(registry.store, registry.name, version, why=why))


def reject(version: int, *, why: str, model_name: str | None = None) -> None:
    """Withdraw a version: the gate cannot promote it until somebody approves it."""
    registry = _Registry.open(model_name)
    _tell(registry, promotion.reject(registry.store, registry.name, version, why=why))


def rollback(*, why: str, to: int | None = None, model_name: str | None = None) -> None:
    """Make the champion before, or --to another previous one, champion again; the present one is revoked."""
    registry = _Registry.open(model_name)
    _tell(registry, promotion.rollback(registry.store, registry.name, to=to, why=why))


@dataclass(frozen=True)
class _Registry:
    """A registered model and its ledger."""

    name: str
    store: Store
    ledger: Ledger

    @classmethod
    def open(cls, model_name: str | None) -> "_Registry":
        """The model that is named here or in params.yaml. Creates nothing; a `UserError` if there is none."""
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

    def known(self, version: int, state: State) -> dict[str, str]:
        """What is known of a version, with the figures on which the gate last decided."""
        decided = state.decided(version)
        figures = {} if decided is None else decided.figures.estimates
        found = describe_version(self.store, self.name, version)
        return found | {f"test {name}": str(figure) for name, figure in sorted(figures.items())}


def _tell(registry: _Registry, event: Event) -> None:
    _print(*_lines(event), "", _standing(registry.name, registry.ledger.state(), None))


def _standing(name: str, state: State, at: str | None) -> str:
    """Who is champion, and who waits."""
    when = "" if at is None else f" at {at}"
    if state.champion is None:
        return f"{name}: no champion{when or ' yet'}"
    since = state.since(state.champion)
    told = f"{name}: version {state.champion} is champion{when}" + (
        f", since {since:%Y-%m-%d %H:%M} UTC" if since else ""
    )
    return told if state.challenger is None else f"{told}; version {state.challenger} waits for a review"


def _lines(event: Event) -> list[str]:
    """An entry as the terminal shows it: a line, and why beneath it."""
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


def _row(key: str, value: str) -> str:
    text = textwrap.wrap(value, WIDTH - KEY, subsequent_indent=" " * KEY) or [""]
    return f"{key:<{KEY}}" + "\n".join(text)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _named(version: int | None) -> str:
    return "nobody" if version is None else f"version {version}"


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise UserError(f"--at {text}: give a time such as 2026-11-01 or 2026-11-01T06:00") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _print(*lines: str) -> None:
    for line in lines:
        print(line)  # noqa: T201
