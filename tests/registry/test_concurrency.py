"""Promotions at once, and killed at any point: on a file, on a real server over SQLite and over PostgreSQL."""

import json
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from dbrnet.registry.ledger import Ledger
from dbrnet.registry.store import open_store
from tests.registry import acting
from tests.registry.acting import NAME, carry_out, enter, registry_state, start
from tests.registry.conftest import ModelMaker
from tests.registry.servers import BINARIES, mlflow_server, postgresql

AT_ONCE = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module", params=["file", "server on SQLite", "server on PostgreSQL"])
def address(
    request: pytest.FixtureRequest, migrated_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str | None]:
    """The tracking address; None: a file in the project's folder."""
    root = tmp_path_factory.mktemp("store")
    if request.param == "file":
        yield None
    elif request.param == "server on SQLite":
        with mlflow_server(root, migrated_database) as found:
            yield found
    else:
        if not BINARIES:
            pytest.skip("needs PostgreSQL: apt-get install postgresql")
        with postgresql() as uri, mlflow_server(root, uri) as found:
            yield found


@pytest.fixture
def project(address: str | None, migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder whose store is at the address, with no model of that name in it."""
    if address is None:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shutil.copyfile(migrated_database, tmp_path / "mlflow.db")
        return tmp_path
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    client = open_store(tmp_path).client
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)
    return tmp_path


def act(gate: Event, project: Path, address: str | None, run_id: str, model: Path, *, decide: bool) -> None:
    """In a process of its own: open the store, wait for the others, then register, and decide too."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    if address is not None:
        os.environ["MLFLOW_TRACKING_URI"] = address
    store = open_store(project)
    run = start(store, run_id)
    gate.wait()
    if decide:
        carry_out(store, run, model, against=None if model.name == "model1.onnx" else 1)
    else:
        enter(store, run, model)


def at_once(project: Path, run_id: str, models: Sequence[Path], *, decide: bool) -> None:
    """A process a model, which begin together; no forks of this one, whose connections are its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.registry.acting"])
    gate, address = context.Event(), os.environ.get("MLFLOW_TRACKING_URI")
    processes = [
        context.Process(target=act, args=(gate, project, address, run_id, model), kwargs={"decide": decide})
        for model in models
    ]
    for process in processes:
        process.start()
    gate.set()
    for process in processes:
        process.join(100)
    assert [process.exitcode for process in processes] == [0] * len(models)


def test_eight_promotions_at_once_end_with_one_champion_and_no_decision_lost(
    project: Path, make_model: ModelMaker
) -> None:
    store = open_store(project)
    run = start(store)
    carry_out(store, run, make_model(1))
    at_once(project, run.run_id, [make_model(number + 2) for number in range(AT_ONCE)], decide=True)
    state = registry_state(store)  # the aliases are as the ledger says
    outcomes = Counter(outcome for _, outcome, _, _ in state["ledger"])
    assert outcomes == {"promoted": 2, "superseded": AT_ONCE - 1}
    champion = state["aliases"]["champion"]
    assert champion != 1
    decided = {version: tags["tags"]["decision"] for version, tags in state.items() if version.isdigit()}
    assert len(decided) == AT_ONCE + 1
    assert {version for version, answer in decided.items() if answer == "promoted"} == {"1", str(champion)}
    for version, outcome, _, text in state["ledger"][1:]:
        if outcome == "superseded":
            assert text == f"version {champion} had become champion since the comparison with version 1"
            assert state[str(version)]["tags"]["reasons"] == text


def test_one_model_registered_eight_times_at_once_is_one_version(project: Path, make_model: ModelMaker) -> None:
    store = open_store(project)
    run, model = start(store), make_model(1)
    at_once(project, run.run_id, [model] * AT_ONCE, decide=False)
    (version,) = store.client.search_model_versions(f"name = '{NAME}'")
    assert enter(store, run, model) == int(version.version)


def test_the_same_decision_eight_times_at_once_counts_once(project: Path, make_model: ModelMaker) -> None:
    store = open_store(project)
    run, model = start(store), make_model(1)
    enter(store, run, model)
    at_once(project, run.run_id, [model] * AT_ONCE, decide=True)
    assert [event.outcome for event in Ledger(store, NAME).state().events] == ["promoted"]
    assert registry_state(store)["aliases"] == {"champion": 1}


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


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("address", "answer"),
    [
        *(("file", answer) for answer in ("promoted", "needs review", "rejected")),
        *((f"server on {database}", "promoted") for database in ("SQLite", "PostgreSQL")),
    ],
    indirect=["address"],
)
def test_killed_before_any_write_and_run_again_it_ends_the_same(
    address: str | None, answer: str, project: Path, make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    words, expected = {"answer": answer, "against": 1, "why": "so it was measured"}, None
    store = open_store(project)
    run = start(store)
    carry_out(store, run, make_model(1))
    for kill_at in (99, *range(99)):  # first undisturbed, then before each write
        root = project / f"killed{kill_at}"
        root.mkdir()
        if address is None:  # another file: a fork must not share this process's connections
            shutil.copyfile(project / "mlflow.db", root / "mlflow.db")
        else:  # another model
            monkeypatch.setattr(acting, "NAME", root.name)
            run = start(store)
            carry_out(store, run, make_model(1))
        killed = promote_in_a_child(root, run.run_id, words, make_model(2), kill_at)
        again = open_store(root)
        assert Ledger(again, acting.NAME).aliases()["champion"] in (1, 2)
        if killed:
            carry_out(again, start(again, run.run_id), make_model(2), **words)  # type: ignore[arg-type]
        state = json.loads(json.dumps(registry_state(again)).replace(run.run_id, "RUN"))
        expected = expected or state
        assert state == expected
        uploads = again.client.search_logged_models([run.experiment_id])
        assert len([upload for upload in uploads if upload.source_run_id == run.run_id]) == 2
        if not killed and kill_at != 99:
            break
    assert (expected or {})["aliases"]["champion"] == (2 if answer == "promoted" else 1)
    assert kill_at >= 8  # as many writes were cut off
