"""Decisions carried out in a store: what a reader finds there."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from dbrnet.errors import JobError, UserError
from dbrnet.records import Promotion
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.ledger_state import KeyFigures
from dbrnet.registry.promotion import approve, record, reject, rollback
from dbrnet.registry.store import Store
from dbrnet.registry.tracking import TrackedRun
from dbrnet.reports.decision_text import outcome_line
from tests.registry.acting import NAME, carry_out, decided, enter, registry_state, start
from tests.registry.conftest import ModelMaker

Decide = Callable[..., Promotion]


@pytest.fixture
def run(store: Store) -> TrackedRun:
    return start(store)


@pytest.fixture
def decide(store: Store, run: TrackedRun, make_model: ModelMaker) -> Decide:
    """Registers the model with a mark and decides on it."""

    def decide(mark: int, *words: Any, **named: Any) -> Promotion:
        return carry_out(store, run, make_model(mark), *words, **named)

    return decide


def test_a_model_that_passes_is_champion_and_one_that_fails_is_not(
    store: Store, run: TrackedRun, decide: Decide
) -> None:
    promotion = decide(1)
    assert (promotion.answer, promotion.version, promotion.reasons) == ("promoted", 1, ())
    assert (promotion.champion_before, promotion.champion_after, promotion.entry) == (None, 1, 1)
    state = registry_state(store)
    assert state["aliases"] == {"champion": 1}
    tags = state["1"]["tags"]
    assert (tags["decision"], tags["leaks"]) == ("promoted", "no")
    assert tags["review"] == f"runs:/{run.run_id}/review.html"
    assert state["1"]["description"] == "# model1.onnx: promoted"
    assert store.client.get_model_version(NAME, "1").run_id == run.run_id
    (entry,) = store.client.search_model_versions(f"name = '{NAME}.ledger'")
    assert entry.description.startswith("**The gate on version 1: promoted**")
    promotion = decide(2, "rejected", 1, "mIoU 0.7 is below 0.75")
    assert (promotion.answer, promotion.champion_after) == ("rejected", 1)
    tags = registry_state(store)["2"]["tags"]
    assert (tags["decision"], tags["reasons"]) == ("rejected", "mIoU 0.7 is below 0.75")


def test_the_same_decision_again_is_the_same_decision(store: Store, decide: Decide) -> None:
    first = decide(1)
    state = registry_state(store)
    assert decide(1) == first
    assert registry_state(store) == state
    decide(2, against=1)
    again = decide(1)  # its outcome, and nothing moves
    assert again == first.model_copy(update={"champion_now": 2})
    assert outcome_line(again) == (
        "promoted before, and not again: dbrnet version 1 is champion no more (version 2 is champion now)"
    )
    assert registry_state(store)["aliases"] == {"champion": 2}


@pytest.mark.parametrize(("against", "answer"), [(1, "promoted"), (None, "rejected")])
def test_a_dry_run_foretells_the_outcome_and_writes_nothing(
    against: int | None, answer: str, store: Store, run: TrackedRun, decide: Decide, make_model: ModelMaker
) -> None:
    decide(1)
    version = enter(store, run, make_model(2))
    enter_decision = partial(
        record,
        store,
        NAME,
        version,
        decided("promoted"),
        compared_with=against,
        decision_id="second",
        run_id=run.run_id,
        figures=KeyFigures(),
    )
    before = registry_state(store)
    expected = enter_decision(dry_run=True)
    assert registry_state(store) == before
    recorded = enter_decision()
    assert recorded.answer == answer == registry_state(store)["2"]["tags"]["decision"]
    overtaken = ("version 1 had become champion since the comparison with none",)
    assert recorded.reasons == (overtaken if answer == "rejected" else ())
    assert expected.model_copy(update={"time": recorded.time}) == recorded
    assert enter_decision(dry_run=True) == recorded  # it is there already


def test_a_champion_that_fails_stays_and_everything_says_so(store: Store, decide: Decide) -> None:
    decide(1)
    before = registry_state(store)["1"]["tags"]
    promotion = decide(1, "rejected", None, "mIoU 0.8 is below 0.9")
    assert (promotion.answer, promotion.champion_before, promotion.champion_after) == ("rejected", 1, 1)
    assert "stays champion all the same" in promotion.reasons[-1]
    tags = registry_state(store)["1"]["tags"]
    assert tags["decision"] == before["decision"] == "promoted"
    assert tags["recheck"].startswith("failed: mIoU 0.8 is below 0.9")
    decide(1, id_="once more")
    assert "recheck" not in registry_state(store)["1"]["tags"]
    review = decide(1, "needs review", None, "promote.mode is review")
    tags = registry_state(store)["1"]["tags"]
    assert (tags["decision"], tags["recheck"]) == ("promoted", "needs review: promote.mode is review")
    assert "approve" not in outcome_line(review)


def test_the_tags_of_every_version_are_what_the_ledger_says(
    store: Store, run: TrackedRun, decide: Decide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")

    def told(key: str) -> list[str | None]:
        return [registry_state(store)[version]["tags"].get(key) for version in "123"]

    decide(1)
    decide(2, "needs review", 1, "too close to call")
    decide(3, "needs review", 1, "too close to call")
    approve(store, NAME, 3, why="sharper")
    reject(store, NAME, 2, why="blurred")
    assert told("decision") == ["promoted", "revoked", "approved"]
    assert told("reasons") == [None, "blurred", "sharper"]
    rollback(store, NAME, to=None, why="coil 4711")
    assert told("decision") == ["rolled back", "revoked", "revoked"]
    assert told("decided_by") == ["ann", "ann", "ann"]
    assert told("ledger_entry") == ["6", "5", "6"]
    assert told("review") == [f"runs:/{run.run_id}/review.html"] * 3


def test_a_rolled_back_network_stays_out_when_its_file_says_another_commit(
    store: Store, run: TrackedRun, decide: Decide, make_model: ModelMaker, tmp_path: Path
) -> None:
    decide(1)
    decide(2, against=1)
    rollback(store, NAME, to=None, why="coil 4711")
    proto = onnx.load(make_model(2))
    onnx.helper.set_model_props(proto, {"commit": "another"})
    onnx.save_model(proto, tmp_path / "again.onnx")
    back = carry_out(store, run, tmp_path / "again.onnx", against=1)
    assert (back.version, back.answer) == (3, "rejected")
    assert "version 3 has the network of version 2, which was revoked by" in back.reasons[0]
    assert registry_state(store)["aliases"] == {"champion": 1}


def test_a_champion_whose_version_was_deleted_is_rolled_back_from(store: Store, decide: Decide) -> None:
    decide(1)
    decide(2, against=1)
    store.client.delete_model_version(NAME, "2")
    rollback(store, NAME, to=None, why="it is gone")
    assert registry_state(store)["aliases"] == {"champion": 1}
    decide(3, "needs review", 1)
    store.client.delete_model_version(NAME, "1")
    reject(store, NAME, 3, why="not now")
    approve(store, NAME, 3, why="there is no other")
    assert registry_state(store)["aliases"] == {"champion": 3}


def test_one_that_waits_since_another_champion_needs_a_reason(store: Store, decide: Decide) -> None:
    decide(1)
    decide(2, "needs review", 1)
    decide(3, against=1)
    with pytest.raises(UserError, match="version 2 was compared with version 1, not with version 3"):
        approve(store, NAME, 2, why=None)
    assert registry_state(store)["aliases"] == {"champion": 3, "challenger": 2}
    decide(2, "needs review", 3)
    approve(store, NAME, 2, why=None)
    decide(4, "needs review", 2)
    rollback(store, NAME, to=None, why="coil 4711")
    approve(store, NAME, 4, why="better than both")
    assert registry_state(store)["aliases"] == {"champion": 4}


def test_an_alias_older_than_the_ledger_is_adopted(store: Store, decide: Decide) -> None:
    store.client.create_registered_model(NAME)
    store.client.create_model_version(NAME, "file:///elsewhere")
    store.client.set_registered_model_alias(NAME, "champion", "1")
    ledger = Ledger(store, NAME)
    assert ledger.state().baseline(None) == 1
    blind = decide(1)
    assert (blind.answer, blind.champion_after) == ("rejected", 1)
    assert decide(2, against=1).champion_after == 3
    assert [event.outcome for event in ledger.state().events] == ["adopted", "superseded", "promoted"]


def test_an_alias_that_another_promotion_sets_meanwhile_is_not_adopted(
    store: Store, decide: Decide, monkeypatch: pytest.MonkeyPatch
) -> None:
    aliases = Ledger.aliases

    def after_another(ledger: Ledger) -> dict[str, int]:
        monkeypatch.setattr(Ledger, "aliases", aliases)
        decide(1)
        return aliases(ledger)

    monkeypatch.setattr(Ledger, "aliases", after_another)
    assert decide(1).answer == "promoted"
    assert [event.outcome for event in Ledger(store, NAME).state().events] == ["promoted"]


def test_an_alias_moved_by_hand_is_put_back_and_told(
    store: Store, decide: Decide, caplog: pytest.LogCaptureFixture
) -> None:
    decide(1)
    decide(2, "rejected", 1, "slow")
    store.client.set_registered_model_alias(NAME, "champion", "2")
    with caplog.at_level(logging.WARNING, "dbrnet"):
        decide(3, "rejected", 1, "slow")
    assert "moved to version 2 by hand" in caplog.text
    assert registry_state(store)["aliases"] == {"champion": 1}


def test_a_slow_process_that_sets_an_old_alias_corrects_it(store: Store, decide: Decide) -> None:
    """It read the ledger, others promoted version 2, and only then it sets the alias: it looks again."""
    decide(1)
    slow = Ledger(store, NAME)
    set_aliases = slow._set_aliases

    def late(state: Any) -> None:
        slow._set_aliases = set_aliases  # type: ignore[method-assign]
        decide(2, against=1)
        set_aliases(state)
        assert slow.aliases() == {"champion": 1}

    slow._set_aliases = late  # type: ignore[method-assign]
    assert slow.reconcile().champion == 2
    assert registry_state(store)["aliases"] == {"champion": 2}


@pytest.mark.parametrize("entry", [1, 2], ids=["an entry", "the newest entry"])
def test_a_ledger_that_lacks_an_entry_decides_nothing(entry: int, store: Store, decide: Decide) -> None:
    decide(1)
    decide(2, against=1)
    store.client.delete_model_version(f"{NAME}.ledger", str(entry))
    with pytest.raises(JobError, match=f"lacks entry {entry}: somebody has deleted it"):
        decide(3, against=2)
    with pytest.raises(JobError, match=f"lacks entry {entry}"):
        rollback(store, NAME, to=None, why="coil 4711")
    assert Ledger(store, NAME).aliases() == {"champion": 2}


def test_a_foreign_entry_decides_nothing(store: Store, decide: Decide) -> None:
    decide(1)
    store.client.create_model_version(f"{NAME}.ledger", "file:///elsewhere", tags={"entry": "{}"})
    with pytest.raises(JobError, match="entry 2 of the ledger"):
        Ledger(store, NAME).state()
