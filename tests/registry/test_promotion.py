"""Decisions carried out in a store: what a reader finds there, also after a kill at any point."""

import json
import logging
import os
import shutil
import signal
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import pytest

from dbrnet.errors import JobError, UserError
from dbrnet.records import Decision
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.ledger_state import KeyFigures
from dbrnet.registry.promotion import approve, record, reject, rollback
from dbrnet.registry.store import Store, open_store
from dbrnet.reports.decision_text import outcome_line
from tests.registry import acting
from tests.registry.acting import NAME, carry_out, enter, registry_state, start
from tests.registry.conftest import ModelMaker
from tests.registry.servers import BINARIES, mlflow_server, postgresql


def test_the_first_model_that_passes_is_champion(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    promotion = carry_out(store, run, make_model(1))
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


def test_one_that_was_overtaken_is_rejected_and_told_so(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    carry_out(store, run, make_model(2), against=1)
    promotion = carry_out(store, run, make_model(3), against=1)
    assert (promotion.answer, promotion.champion_after) == ("rejected", 2)
    assert promotion.reasons == ("version 2 had become champion since the comparison with version 1",)
    assert registry_state(store)["3"]["tags"]["decision"] == "rejected"


def test_a_model_that_fails_is_rejected_with_its_reason(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    promotion = carry_out(store, run, make_model(2), "rejected", 1, "mIoU 0.7 is below 0.75")
    assert (promotion.answer, promotion.champion_after) == ("rejected", 1)
    tags = registry_state(store)["2"]["tags"]
    assert (tags["decision"], tags["reasons"]) == ("rejected", "mIoU 0.7 is below 0.75")


def test_the_same_decision_again_is_the_same_decision(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    first = carry_out(store, run, make_model(1))
    state = registry_state(store)
    assert carry_out(store, run, make_model(1)) == first
    assert registry_state(store) == state
    carry_out(store, run, make_model(2), against=1)
    again = carry_out(store, run, make_model(1))  # its outcome, and nothing moves
    assert again == first.model_copy(update={"champion_now": 2})
    assert outcome_line(again) == (
        "promoted before, and not again: dbrnet version 1 is champion no more (version 2 is champion now)"
    )
    assert registry_state(store)["aliases"] == {"champion": 2}


@pytest.mark.parametrize(("against", "answer"), [(1, "promoted"), (None, "rejected")])
def test_a_dry_run_foretells_the_outcome_and_writes_nothing(
    against: int | None, answer: str, store: Store, make_model: ModelMaker
) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    version = enter(store, run, make_model(2))
    decide = partial(
        record,
        store,
        NAME,
        version,
        Decision(answer="promoted", mode="automatic", reasons=(), criteria=()),
        compared_with=against,
        decision_id="second",
        run_id=run.run_id,
        figures=KeyFigures(),
    )
    before = registry_state(store)
    expected = decide(dry_run=True)
    assert registry_state(store) == before
    recorded = decide()
    assert recorded.answer == answer
    assert expected.model_copy(update={"time": recorded.time}) == recorded
    assert decide(dry_run=True) == recorded  # it is there already


def test_a_champion_that_fails_stays_and_everything_says_so(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    before = registry_state(store)["1"]["tags"]
    promotion = carry_out(store, run, make_model(1), "rejected", None, "mIoU 0.8 is below 0.9")
    assert (promotion.answer, promotion.champion_before, promotion.champion_after) == ("rejected", 1, 1)
    assert "stays champion all the same" in promotion.reasons[-1]
    tags = registry_state(store)["1"]["tags"]
    assert tags["decision"] == before["decision"] == "promoted"
    assert tags["recheck"].startswith("failed: mIoU 0.8 is below 0.9")
    carry_out(store, run, make_model(1), id_="once more")
    assert "recheck" not in registry_state(store)["1"]["tags"]
    review = carry_out(store, run, make_model(1), "needs review", None, "promote.mode is review")
    tags = registry_state(store)["1"]["tags"]
    assert (tags["decision"], tags["recheck"]) == ("promoted", "needs review: promote.mode is review")
    assert "approve" not in outcome_line(review)


def test_the_tags_of_every_version_are_what_the_ledger_says(
    store: Store, make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    run = start(store)

    def told(key: str) -> list[str | None]:
        return [registry_state(store)[version]["tags"].get(key) for version in "123"]

    carry_out(store, run, make_model(1))
    carry_out(store, run, make_model(2), "needs review", 1, "too close to call")
    carry_out(store, run, make_model(3), "needs review", 1, "too close to call")
    approve(store, NAME, 3, why="sharper")
    reject(store, NAME, 2, why="blurred")
    assert told("decision") == ["promoted", "revoked", "approved"]
    assert told("reasons") == [None, "blurred", "sharper"]
    rollback(store, NAME, to=None, why="coil 4711")
    assert told("decision") == ["rolled back", "revoked", "revoked"]
    assert told("decided_by") == ["ann", "ann", "ann"]
    assert told("ledger_entry") == ["6", "5", "6"]
    assert told("review") == [f"runs:/{run.run_id}/review.html"] * 3


def test_a_person_decides(store: Store, make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    run = start(store)
    carry_out(store, run, make_model(1))
    waiting = carry_out(store, run, make_model(2), "needs review", 1, "too close to call")
    assert (waiting.answer, waiting.challenger) == ("needs review", 2)
    assert registry_state(store)["aliases"] == {"champion": 1, "challenger": 2}
    event = approve(store, NAME, 2, why=None)
    assert (event.entry.by, event.champion_before, event.champion_after) == ("ann", 1, 2)
    assert registry_state(store)["aliases"] == {"champion": 2}
    rollback(store, NAME, to=None, why="coil 4711")
    assert registry_state(store)["aliases"] == {"champion": 1}
    back = carry_out(store, run, make_model(2), against=1, id_="the schedule")
    assert back.answer == "rejected"
    assert "revoked by ann" in back.reasons[0]
    assert "coil 4711" in back.reasons[0]
    carry_out(store, run, make_model(3), "needs review", 1)
    reject(store, NAME, 3, why="blurred")
    assert registry_state(store)["aliases"] == {"champion": 1}
    with pytest.raises(UserError, match="revoked already, by ann"):
        reject(store, NAME, 3, why="blurred")
    approve(store, NAME, 2, why="it was the lens")
    assert registry_state(store)["aliases"] == {"champion": 2}


def test_a_rolled_back_network_stays_out_when_its_file_says_another_commit(
    store: Store, make_model: ModelMaker, tmp_path: Path
) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    carry_out(store, run, make_model(2), against=1)
    rollback(store, NAME, to=None, why="coil 4711")
    proto = onnx.load(make_model(2))
    onnx.helper.set_model_props(proto, {"commit": "another"})
    onnx.save_model(proto, tmp_path / "again.onnx")
    back = carry_out(store, run, tmp_path / "again.onnx", against=1)
    assert (back.version, back.answer) == (3, "rejected")
    assert "version 3 has the network of version 2, which was revoked by" in back.reasons[0]
    assert registry_state(store)["aliases"] == {"champion": 1}


def test_a_champion_whose_version_was_deleted_is_rolled_back_from(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    carry_out(store, run, make_model(2), against=1)
    store.client.delete_model_version(NAME, "2")
    rollback(store, NAME, to=None, why="it is gone")
    assert registry_state(store)["aliases"] == {"champion": 1}
    carry_out(store, run, make_model(3), "needs review", 1)
    store.client.delete_model_version(NAME, "1")
    reject(store, NAME, 3, why="not now")
    approve(store, NAME, 3, why="there is no other")
    assert registry_state(store)["aliases"] == {"champion": 3}


def test_one_that_waits_since_another_champion_needs_a_reason(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    carry_out(store, run, make_model(2), "needs review", 1)
    carry_out(store, run, make_model(3), against=1)
    with pytest.raises(UserError, match="version 2 was compared with version 1, not with version 3"):
        approve(store, NAME, 2, why=None)
    assert registry_state(store)["aliases"] == {"champion": 3, "challenger": 2}
    carry_out(store, run, make_model(2), "needs review", 3)
    approve(store, NAME, 2, why=None)
    carry_out(store, run, make_model(4), "needs review", 2)
    rollback(store, NAME, to=None, why="coil 4711")
    approve(store, NAME, 4, why="better than both")
    assert registry_state(store)["aliases"] == {"champion": 4}


def test_an_alias_older_than_the_ledger_is_adopted(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    store.client.create_registered_model(NAME)
    store.client.create_model_version(NAME, "file:///elsewhere")
    store.client.set_registered_model_alias(NAME, "champion", "1")
    ledger = Ledger(store, NAME)
    assert ledger.state().baseline(None) == 1
    blind = carry_out(store, run, make_model(1))
    assert (blind.answer, blind.champion_after) == ("rejected", 1)
    assert carry_out(store, run, make_model(2), against=1).champion_after == 3
    assert [event.outcome for event in ledger.state().events] == ["adopted", "superseded", "promoted"]


def test_an_alias_moved_by_hand_is_put_back_and_told(
    store: Store, make_model: ModelMaker, caplog: pytest.LogCaptureFixture
) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    carry_out(store, run, make_model(2), "rejected", 1, "slow")
    store.client.set_registered_model_alias(NAME, "champion", "2")
    with caplog.at_level(logging.WARNING, "dbrnet"):
        carry_out(store, run, make_model(3), "rejected", 1, "slow")
    assert "moved to version 2 by hand" in caplog.text
    assert registry_state(store)["aliases"] == {"champion": 1}


def test_a_settler_that_was_slow_is_put_right_by_itself(store: Store, make_model: ModelMaker) -> None:
    """It read the ledger, others promoted version 2, and only then it sets the alias: it looks again."""
    run = start(store)
    carry_out(store, run, make_model(1))
    slow = Ledger(store, NAME)
    set_aliases = slow._set_aliases

    def late(state: Any) -> None:
        slow._set_aliases = set_aliases  # type: ignore[method-assign]
        carry_out(store, run, make_model(2), against=1)
        set_aliases(state)
        assert slow.aliases() == {"champion": 1}

    slow._set_aliases = late  # type: ignore[method-assign]
    assert slow.reconcile().champion == 2
    assert registry_state(store)["aliases"] == {"champion": 2}


def test_a_ledger_that_lacks_an_entry_decides_nothing(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    carry_out(store, run, make_model(2), against=1)
    store.client.delete_model_version(f"{NAME}.ledger", "1")
    with pytest.raises(JobError, match="lacks entry 1: somebody has deleted it"):
        carry_out(store, run, make_model(3), against=2)
    assert Ledger(store, NAME).aliases() == {"champion": 2}


def test_a_ledger_that_lacks_its_newest_entry_decides_nothing(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    carry_out(store, run, make_model(2), against=1)
    store.client.delete_model_version(f"{NAME}.ledger", "2")
    with pytest.raises(JobError, match="lacks entry 2: somebody has deleted it"):
        carry_out(store, run, make_model(3), against=2)
    with pytest.raises(JobError, match="lacks entry 2"):
        rollback(store, NAME, to=None, why="coil 4711")
    assert Ledger(store, NAME).aliases() == {"champion": 2}


def test_a_foreign_entry_decides_nothing(store: Store, make_model: ModelMaker) -> None:
    carry_out(store, start(store), make_model(1))
    store.client.create_model_version(f"{NAME}.ledger", "file:///elsewhere", tags={"entry": "{}"})
    with pytest.raises(JobError, match="entry 2 of the ledger"):
        Ledger(store, NAME).state()


WRITES = ("create_", "set_", "update_", "delete_", "log_", "finalize_")


def promote_in_a_child(root: Path, run_id: str, words: dict[str, Any], model: Path, kill_at: int) -> bool:
    """Promote in a forked process that kills itself before its `kill_at`-th write; True if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            store = open_store(root)
            run = start(store, run_id)
            client, writes = store.client, 0

            def counted(write: Any) -> Any:
                def call(*args: Any, **kwargs: Any) -> Any:
                    nonlocal writes
                    if writes == kill_at:
                        os.kill(os.getpid(), signal.SIGKILL)
                    writes += 1
                    return write(*args, **kwargs)

                return call

            for method in dir(client):
                if method.startswith(WRITES):
                    setattr(client, method, counted(getattr(client, method)))
            carry_out(store, run, model, **words)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.slow
@pytest.mark.parametrize("answer", ["promoted", "needs review", "rejected"])
def test_killed_before_any_write_and_run_again_it_ends_the_same(
    answer: str, store: Store, make_model: ModelMaker, tmp_path: Path
) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    database, base = store.artifacts.parent / "mlflow.db", tmp_path / "base.db"
    shutil.copyfile(database, base)
    words, model = {"answer": answer, "against": 1, "why": "so it was measured"}, make_model(2)
    expected: dict[str, Any] | None = None
    for kill_at in (99, *range(99)):  # first undisturbed, then before each write
        root = tmp_path / f"killed{kill_at}"
        root.mkdir()
        shutil.copyfile(base, root / "mlflow.db")
        killed = promote_in_a_child(root, run.run_id, words, model, kill_at)
        again = open_store(root)
        if expected is None:
            assert not killed
            expected = registry_state(again)
            assert expected["aliases"]["champion"] == (2 if answer == "promoted" else 1)
            continue
        assert Ledger(again, NAME).aliases()["champion"] in (1, 2)
        carry_out(again, start(again, run.run_id), model, **words)  # type: ignore[arg-type]
        assert registry_state(again) == expected
        assert len(again.client.search_logged_models([run.experiment_id])) == 2
        if not killed:
            break
    assert kill_at >= 8  # as many writes were cut off


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "kind",
    [
        "sqlite",
        pytest.param(
            "postgresql", marks=pytest.mark.skipif(not BINARIES, reason="needs PostgreSQL: apt-get install postgresql")
        ),
    ],
)
def test_killed_before_any_write_it_ends_the_same_on_a_server(
    kind: str, make_model: ModelMaker, migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time another registered model in the one store, whose tables are made once."""
    database = postgresql() if kind == "postgresql" else nullcontext(migrated_database)
    with database as uri, mlflow_server(tmp_path, uri) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        expected: dict[str, Any] | None = None
        for kill_at in (99, *range(99)):
            monkeypatch.setattr(acting, "NAME", f"killed{kill_at}")
            store = open_store(tmp_path)
            run = start(store)
            carry_out(store, run, make_model(1))
            killed = promote_in_a_child(tmp_path, run.run_id, {"against": 1}, make_model(2), kill_at)
            assert Ledger(store, acting.NAME).aliases()["champion"] in (1, 2)
            if killed:
                carry_out(store, start(store, run.run_id), make_model(2), against=1)
            state = json.loads(json.dumps(registry_state(store)).replace(run.run_id, "RUN"))
            expected = expected or state
            assert state == expected
            if not killed and kill_at != 99:
                break
        assert (expected or {})["aliases"] == {"champion": 2}
        assert kill_at >= 8
