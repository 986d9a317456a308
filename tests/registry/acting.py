"""What a promotion does to a store, from end to end, and what a reader of the store sees of it."""

from pathlib import Path
from typing import Any

import numpy as np

from dbrnet.records import Answer, Decision, Promotion
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.ledger_state import KeyFigures
from dbrnet.registry.promotion import describe, record
from dbrnet.registry.store import Store
from dbrnet.registry.tracking import TrackedRun, start_or_resume_run
from dbrnet.registry.versions import register

NAME = "dbrnet"
EXAMPLE = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)


def start(store: Store, run_id: str | None = None) -> TrackedRun:
    return start_or_resume_run(store, "strip", run_id=run_id, name="train", tags={})


def decided(answer: Answer, *reasons: str) -> Decision:
    """A decision of the gate as far as the registry looks at it."""
    return Decision(answer=answer, mode="automatic", reasons=reasons, criteria=())


def enter(store: Store, run: TrackedRun, model: Path) -> int:
    """Register a model, with a file beside it."""
    beside = {"lineage.json": Path(__file__)}
    return register(store, run, NAME, model, files=beside, tags={"leaks": "no"}, example=EXAMPLE)


def carry_out(
    store: Store,
    run: TrackedRun,
    model: Path,
    answer: Answer = "promoted",
    against: int | None = None,
    why: str | None = None,
    id_: str | None = None,
) -> Promotion:
    """Register a model and decide on it; the id follows from the content, as the step makes it."""
    version = enter(store, run, model)
    promotion = record(
        store,
        NAME,
        version,
        decided(answer, *([why] if why else [])),
        compared_with=against,
        decision_id=id_ or f"{model.name}-{answer}-{against}-{why}",
        run_id=run.run_id,
        figures=KeyFigures(miou=0.8),
    )
    describe(store, NAME, version, f"# {model.name}: {promotion.answer}")
    return promotion


def registry_state(store: Store) -> dict[str, Any]:
    """Everything a reader of the registry sees, without ids and times; the champion is the ledger's."""
    versions = store.client.search_model_versions(f"name = '{NAME}'")
    state: dict[str, Any] = {
        str(v.version): {"tags": v.tags, "description": v.description, "status": v.status}
        for v in sorted(versions, key=lambda v: int(v.version))
    }
    ledger = Ledger(store, NAME)
    state["aliases"] = ledger.aliases()
    played = ledger.state()
    assert state["aliases"].get("champion") == played.champion
    assert state["aliases"].get("challenger") == played.challenger
    state["ledger"] = [
        (event.entry.version, event.outcome, event.champion_after, event.text) for event in played.events
    ]
    return state
