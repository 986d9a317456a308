import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnx
import pytest

from dbrnet.errors import JobError, UserError
from dbrnet.files import sha256_file
from dbrnet.registry.gate import Decision, Threshold, decide
from dbrnet.registry.promotion import Promotion, fetch_model, promote
from dbrnet.registry.tracking import Store, TrackedRun, open_store, start_or_resume_run

ModelMaker = Callable[[int], Path]

NAME = "dbrnet"
EVIDENCE = {"dataset_hash": "d" * 64, "split": "groups", "leaks": "no"}


def decision(miou: float = 0.82, min_miou: float = 0.75) -> Decision:
    return decide(
        {"miou": miou, "fps": 31.5, "max_logit_difference": 2e-4, "equal_pixels": 1.0},
        [
            Threshold("miou", "mIoU", min_miou, "at least"),
            Threshold("fps", "frames per second", 30.0, "at least"),
            Threshold("max_logit_difference", "largest logit difference", 1e-3, "at most"),
            Threshold("equal_pixels", "share of equal pixels", 0.9999, "at least"),
        ],
    )


def start(store: Store) -> TrackedRun:
    return start_or_resume_run(store, "strip", run_id=None, name="train", tags={})


def carry_out(what: Decision, model: Path, run: TrackedRun) -> Promotion:
    return promote(what, model, model_name=NAME, run=run, evidence=EVIDENCE)


def registry_state(store: Store) -> dict[str, Any]:
    """Everything a reader of the registry sees, without ids and times."""
    model = store.client.get_registered_model(NAME)
    versions = sorted(store.client.search_model_versions(f"name = '{NAME}'"), key=lambda v: int(v.version))
    state: dict[str, Any] = {
        str(v.version): {"tags": v.tags, "description": v.description, "status": v.status} for v in versions
    }
    state["aliases"] = {alias: int(version) for alias, version in model.aliases.items()}
    champion = state["aliases"].get("champion")
    assert champion is None or state[str(champion)]["tags"]["decision"] == "promoted"
    return state


def test_the_first_model_that_passes_is_champion(store: Store, make_model: ModelMaker) -> None:
    run, model = start(store), make_model(1)
    promotion = carry_out(decision(), model, run)
    assert promotion == Promotion("promoted", NAME, 1, None, 1, ())
    assert promotion.summary == "promoted: dbrnet version 1 is the champion now (before: none)"
    state = registry_state(store)
    assert state["aliases"] == {"champion": 1}
    assert state["1"]["tags"] == {
        "sha256": sha256_file(model),
        "decision": "promoted",
        "miou": "0.82",
        "fps": "31.5",
        "max_logit_difference": "0.0002",
        "equal_pixels": "1.0",
        **EVIDENCE,
    }
    assert "| mIoU | 0.82 | at least 0.75 | passed |" in state["1"]["description"]
    assert store.client.get_model_version(NAME, "1").run_id == run.run_id


def test_a_better_model_takes_over_and_the_former_champion_is_kept(
    store: Store, make_model: ModelMaker
) -> None:
    run = start(store)
    carry_out(decision(), make_model(1), run)
    former = registry_state(store)["1"]
    promotion = carry_out(decision(0.9), make_model(2), run)
    assert promotion == Promotion("promoted", NAME, 2, 1, 2, ())
    state = registry_state(store)
    assert state["aliases"] == {"champion": 2}
    assert state["1"] == former
    assert state["2"]["tags"]["replaced"] == "1"


def test_a_model_that_fails_is_rejected_with_each_reason_and_no_alias_moves(
    store: Store, make_model: ModelMaker
) -> None:
    run = start(store)
    carry_out(decision(), make_model(1), run)
    bad = decide(
        {"miou": 0.7},
        [Threshold("miou", "mIoU", 0.75, "at least"), Threshold("fps", "FPS", 30.0, "at least")],
    )
    promotion = carry_out(bad, make_model(2), run)
    assert promotion == Promotion("rejected", NAME, 2, 1, 1, tuple(bad.reasons))
    assert len(bad.reasons) == 2
    assert promotion.summary.startswith("rejected: dbrnet version 2: mIoU 0.7 is below 0.75; ")
    assert promotion.summary.endswith("(version 1 stays champion)")
    state = registry_state(store)
    assert state["aliases"] == {"champion": 1}
    assert state["2"]["tags"]["decision"] == "rejected"
    assert state["2"]["tags"]["reasons"] == "; ".join(bad.reasons)
    assert state["2"]["tags"]["fps"] == "not measured"
    assert "**Rejected**" in state["2"]["description"]


def test_a_rejected_first_model_leaves_no_champion(store: Store, make_model: ModelMaker) -> None:
    promotion = carry_out(decision(0.1), make_model(1), start(store))
    assert (promotion.answer, promotion.champion_after) == ("rejected", None)
    assert "(there is no champion)" in promotion.summary
    assert registry_state(store)["aliases"] == {}


@pytest.mark.parametrize("miou", [0.82, 0.1])
def test_the_same_model_twice_is_one_version_and_one_answer(
    miou: float, store: Store, make_model: ModelMaker
) -> None:
    first = carry_out(decision(miou), make_model(1), start(store))
    state = registry_state(store)
    again = carry_out(decision(miou), make_model(1), start(store))
    assert registry_state(store) == state
    assert (again.answer, again.version, again.champion_after) == (first.answer, 1, first.champion_after)
    if again.answer == "promoted":
        assert again.champion_before == 1
        assert again.summary == "promoted: dbrnet version 1 was the champion already and stays"


def test_a_rejected_model_that_passes_under_new_thresholds_is_promoted(
    store: Store, make_model: ModelMaker
) -> None:
    run = start(store)
    carry_out(decision(0.7), make_model(1), run)
    promotion = carry_out(decision(0.7, min_miou=0.6), make_model(1), run)
    assert promotion == Promotion("promoted", NAME, 1, None, 1, ())
    state = registry_state(store)
    assert state["1"]["tags"]["decision"] == "promoted"
    assert "reasons" not in state["1"]["tags"]


def test_a_former_champion_that_fails_now_is_rejected(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    carry_out(decision(), make_model(1), run)
    carry_out(decision(0.9), make_model(2), run)
    carry_out(decision(0.82, min_miou=0.85), make_model(1), run)
    state = registry_state(store)
    assert state["aliases"] == {"champion": 2}
    assert state["1"]["tags"]["decision"] == "rejected"


def test_a_champion_that_fails_stays_and_everything_says_so(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    carry_out(decision(), make_model(1), run)
    promoted = registry_state(store)
    promotion = carry_out(decision(min_miou=0.9), make_model(1), run)
    assert (promotion.answer, promotion.champion_before, promotion.champion_after) == ("rejected", 1, 1)
    assert promotion.reasons[-1] == "version 1 stays champion all the same: a rejection moves no alias"
    state = registry_state(store)
    assert state["1"]["tags"] == promoted["1"]["tags"] | {"recheck": "failed: mIoU 0.82 is below 0.9"}
    assert "stays champion" in state["1"]["description"]
    carry_out(decision(), make_model(1), run)
    assert registry_state(store) == promoted


def test_the_champion_loads_through_mlflow_and_answers(
    store: Store, make_model: ModelMaker, tmp_path: Path
) -> None:
    model = make_model(1)
    carry_out(decision(), model, start(store))
    images = np.arange(24, dtype=np.uint8).reshape(1, 2, 4, 3)
    mlflow.set_tracking_uri(store.uri)
    try:
        assert mlflow.onnx.load_model("models:/dbrnet@champion") == onnx.load(model)
        loaded = mlflow.pyfunc.load_model("models:/dbrnet@champion")
        answer = loaded.predict({"image": images})
    finally:
        mlflow.set_tracking_uri(None)
    np.testing.assert_array_equal(answer["mask"], images[..., 1])
    assert loaded.metadata.signature.inputs.input_names() == ["image"]
    assert loaded.metadata.signature.outputs.input_names() == ["mask", "confidence"]


def test_a_model_is_fetched_by_alias_and_by_version(
    store: Store, make_model: ModelMaker, tmp_path: Path
) -> None:
    run = start(store)
    carry_out(decision(), make_model(1), run)
    carry_out(decision(0.1), make_model(2), run)
    out = tmp_path / "fetched"
    assert fetch_model("models:/dbrnet@champion", out, store=store) == out / "model.onnx"
    assert (out / "model.onnx").read_bytes() == make_model(1).read_bytes()
    fetch_model("models:/dbrnet/2", out, store=store)
    assert (out / "model.onnx").read_bytes() == make_model(2).read_bytes()
    assert [path.name for path in out.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/dbrnet", "write models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/dbrnet/Production", "write models:/NAME@ALIAS"),
        ("models:/dbrnet@champoin", "no such alias in sqlite:.*; its aliases: champion"),
        ("models:/dbrnet/7", "no such model"),
        ("models:/other@champion", "no such model"),
    ],
)
def test_an_address_that_names_nothing_is_one_line(
    uri: str, message: str, store: Store, make_model: ModelMaker, tmp_path: Path
) -> None:
    carry_out(decision(), make_model(1), start(store))
    with pytest.raises(UserError, match=message) as caught:
        fetch_model(uri, tmp_path / "out", store=store)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))


def test_a_stored_file_that_was_changed_is_not_handed_out(
    store: Store, make_model: ModelMaker, tmp_path: Path
) -> None:
    carry_out(decision(), make_model(1), start(store))
    [stored] = store.artifacts.rglob("model.onnx")
    shutil.copyfile(make_model(2), stored)
    with pytest.raises(JobError, match="not the one that was registered"):
        fetch_model("models:/dbrnet@champion", tmp_path / "out", store=store)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 50])
def test_a_file_that_is_no_model_registers_nothing(
    content: bytes | None, store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.onnx"):
        carry_out(decision(), path, start(store))
    assert store.client.search_registered_models() == []


WRITES = ("create_", "set_", "update_", "delete_", "log_", "finalize_")


def promote_in_a_child(root: Path, run_id: str, what: Decision, model: Path, kill_at: int) -> bool:
    """Promote in a forked process that kills itself before its `kill_at`-th write; True if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            store = open_store(root)
            run = start_or_resume_run(store, "strip", run_id=run_id, name="train", tags={})
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
            carry_out(what, model, run)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.slow
@pytest.mark.parametrize("miou", [0.9, 0.1])
def test_a_promotion_killed_before_any_write_and_run_again_ends_the_same(
    miou: float, store: Store, make_model: ModelMaker, tmp_path: Path
) -> None:
    run = start(store)
    carry_out(decision(), make_model(1), run)
    database, base = store.artifacts.parent / "mlflow.db", tmp_path / "base.db"
    shutil.copyfile(database, base)
    what, model = decision(miou), make_model(2)
    expected: dict[str, Any] | None = None
    for kill_at in (99, *range(99)):  # first undisturbed, then before each write
        root = tmp_path / f"killed{kill_at}"
        root.mkdir()
        shutil.copyfile(base, root / "mlflow.db")
        killed = promote_in_a_child(root, run.run_id, what, model, kill_at)
        again = open_store(root)
        if expected is None:
            assert not killed
            expected = registry_state(again)
            assert expected["aliases"] == {"champion": 2 if miou > 0.5 else 1}
            continue
        assert registry_state(again)["aliases"]["champion"] in (1, 2)
        carry_out(what, model, start_or_resume_run(again, "strip", run_id=run.run_id, name="train", tags={}))
        assert registry_state(again) == expected
        assert len(again.client.search_logged_models([run.experiment_id])) == 2
        if not killed:
            break
    assert kill_at >= 10  # as many writes were cut off


@pytest.mark.slow
def test_a_whole_promotion_through_a_real_server(
    mlflow_server: str, make_model: ModelMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
    store = open_store(tmp_path)
    (tmp_path / "report.html").write_text("<p>")
    with start(store) as run:
        run.log_params({"train": {"epochs": 3}})
        run.log_metrics({"loss": 1.0, "miou": 0.5}, 0)
        run.log_artifact(tmp_path / "report.html")
        first = carry_out(decision(), make_model(1), run)
        second = carry_out(decision(0.1), make_model(2), run)
        again = carry_out(decision(), make_model(1), run)
    with start_or_resume_run(store, "strip", run_id=run.run_id, name="train", tags={}) as resumed:
        resumed.log_metrics({"loss": 1.0, "miou": 0.5}, 0)
    assert resumed.run_id == run.run_id
    assert start_or_resume_run(store, "strip", run_id="0" * 32, name="x", tags={}).run_id != run.run_id
    assert len(store.client.get_metric_history(run.run_id, "loss")) == 1
    assert [item.path for item in store.client.list_artifacts(run.run_id)] == ["report.html"]
    assert first == Promotion("promoted", NAME, 1, None, 1, ())
    assert (second.answer, second.version, second.champion_after) == ("rejected", 2, 1)
    assert (again.answer, again.version, again.champion_before) == ("promoted", 1, 1)
    assert registry_state(store)["aliases"] == {"champion": 1}
    fetched = fetch_model("models:/dbrnet@champion", tmp_path / "fetched", store=store)
    assert fetched.read_bytes() == make_model(1).read_bytes()
    for uri in ("models:/dbrnet@nobody", "models:/nothing@champion", "models:/dbrnet/9"):
        with pytest.raises(UserError, match="no such"):
            fetch_model(uri, tmp_path / "fetched", store=store)
    assert not (tmp_path / "mlartifacts").exists()
    assert not (tmp_path / "mlflow.db").exists()
