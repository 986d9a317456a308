"""`dbrnet registry`, as a person at a terminal uses it."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dbrnet.cli import main
from dbrnet.records import Answer, Promotion
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.ledger_state import Entry, KeyFigures
from dbrnet.registry.promotion import record
from dbrnet.registry.store import Store
from tests.registry.acting import decided

NAME = "dbrnet-strip"
Decide = Callable[..., Promotion]


@pytest.fixture
def decide(store: Store, monkeypatch: pytest.MonkeyPatch) -> Decide:
    """The gate's decision on a version; versions are made as they are named. People act as ann."""
    monkeypatch.chdir(store.artifacts.parent)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "ann")
    client = store.client
    client.create_registered_model(NAME)
    made: set[int] = set()

    def run(version: int, answer: Answer = "promoted", against: int | None = None, why: str = "") -> Promotion:
        while len(made) < version:
            made.add(int(client.create_model_version(NAME, "file:///nowhere", tags={"mark": "x"}).version))
        return record(
            store,
            NAME,
            version,
            decided(answer, *([why] if why else [])),
            compared_with=against,
            decision_id=os.urandom(8).hex(),
            run_id="0" * 32,
            figures=KeyFigures(miou=0.7 + version / 100),
        )

    return run


def registry(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> str:
    assert main(["registry", *words, "--model-name", NAME]) == status
    shown = capsys.readouterr()
    return shown.err if status else shown.out


def test_the_history_names_everything(decide: Decide, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    decide(1)
    decide(2, "rejected", 1, "mIoU 0.61 is below 0.75")
    decide(3, "needs review", 1, "mIoU minus the champion's 0.01 cannot be told from 0")
    shown = registry(capsys, "history", "--html", str(tmp_path / "history.html"))
    assert shown.startswith(f"{NAME}: version 1 is champion, since ")
    assert "version 3 waits for a review" in shown
    for words in ("mIoU 0.61 is below 0.75", "cannot be told from 0", "the gate", "mIoU 71.0 %"):
        assert words in " ".join(shown.split())
    assert max(len(line) for line in shown.splitlines()) <= 110
    assert "mIoU 0.61 is below 0.75" in (tmp_path / "history.html").read_text()


def test_a_person_approves_rejects_and_rolls_back(
    decide: Decide, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = Ledger(store, NAME)
    decide(1)
    assert decide(2, "needs review", 1, "too close").challenger == 2
    assert ledger.aliases() == {"champion": 1, "challenger": 2}
    assert "version 2 is champion" in registry(capsys, "approve", "2")
    assert ledger.aliases() == {"champion": 2}
    shown = registry(capsys, "rollback", "--why", "coil 4711")
    assert "ann rolled back from version 2 to version 1" not in shown  # the reason stands in its place
    assert "coil 4711" in shown
    assert f"{NAME}: version 1 is champion" in shown
    back = decide(2, "promoted", 1)
    assert back.answer == "rejected"
    assert "revoked by ann" in back.reasons[0]
    assert "coil 4711" in back.reasons[0]
    decide(3, "needs review", 1, "too close")
    assert "not now" in registry(capsys, "reject", "3", "--why", "not now")
    outcome = decide(3, "promoted", 1)
    assert outcome.answer == "rejected"
    assert "revoked by ann" in outcome.reasons[0]
    shown = registry(capsys, "show", "3")
    assert "revoked by ann" in shown
    assert "not now" in shown
    assert "version 2 is champion" in registry(capsys, "approve", "2", "--why", "it was the lens")
    assert ledger.aliases() == {"champion": 2}


@pytest.fixture
def cut_off(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs a command that is killed when its entry stands in the ledger and nothing else is done."""

    append = Ledger.append

    def append_and_die(ledger: Ledger, entry: Entry) -> None:
        append(ledger, entry)
        raise KeyboardInterrupt

    def run(*words: str) -> None:
        with monkeypatch.context() as context:
            context.setattr(Ledger, "append", append_and_die)
            assert main(["registry", *words, "--model-name", NAME]) == 130

    return run


def test_a_persons_decision_that_was_killed_is_completed(
    decide: Decide, store: Store, cut_off: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def tag(version: int) -> str:
        return str(store.client.get_model_version(NAME, str(version)).tags["decision"])

    decide(1)
    decide(2, "promoted", 1)
    decide(3, "needs review", 2, "too close")
    ledger = Ledger(store, NAME)
    cut_off("approve", "3")
    assert ledger.aliases() == {"champion": 2, "challenger": 3}
    assert "is the champion already" in registry(capsys, "approve", "3", status=2)
    assert ledger.aliases() == {"champion": 3}
    cut_off("rollback", "--why", "coil 4711")
    assert ledger.aliases() == {"champion": 3}
    again = registry(capsys, "rollback", "--why", "coil 4711", status=1)
    assert "version 2 is champion" in again
    assert ledger.aliases() == {"champion": 2}, "and no further back"
    decide(4, "needs review", 2, "too close")
    cut_off("reject", "4", "--why", "not now")
    assert tag(4) == "needs review"
    assert "was revoked already" in registry(capsys, "reject", "4", "--why", "not now", status=2)
    assert (ledger.aliases(), tag(4)) == ({"champion": 2}, "revoked")
    assert "version 1 is champion" in registry(capsys, "rollback", "--why", "no better")


def test_a_version_on_which_the_gate_never_decided_can_be_approved(
    decide: Decide, capsys: pytest.CaptureFixture[str]
) -> None:
    decide(2, "promoted")
    assert "say --why" in registry(capsys, "approve", "1", status=2)
    assert "version 1 is champion" in registry(capsys, "approve", "1", "--why", "known from the old line")


def test_who_was_champion_at_a_time(decide: Decide, capsys: pytest.CaptureFixture[str]) -> None:
    decide(1)
    assert "no champion at 2020-01-01" in registry(capsys, "history", "--at", "2020-01-01")
    assert "version 1 is champion at 2100-01-01" in registry(capsys, "history", "--at", "2100-01-01")
    assert "give a time" in registry(capsys, "history", "--at", "yesterday", status=2)


def test_two_versions_side_by_side(decide: Decide, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    decide(2, "rejected", None, "slow")
    store.client.set_model_version_tag(NAME, "1", "dataset_hash", "aa")
    store.client.set_model_version_tag(NAME, "2", "dataset_hash", "bb")
    lines = registry(capsys, "diff", "1", "2").splitlines()
    (differing,) = (line for line in lines if "dataset_hash" in line)
    (equal,) = (line for line in lines if "mark" in line)
    assert differing.split() == ["*", "dataset_hash", "aa", "bb"]
    (figure,) = (line for line in lines if "test miou" in line)
    assert figure.split() == ["*", "test", "miou", "-", "72.0", "%"]
    assert equal.split() == ["mark", "x", "x"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["approve", "1"], "is the champion already"),
        (["approve", "2"], "say --why"),
        (["approve", "9", "--why", "x"], "has no version 9"),
        (["reject", "1", "--why", "x"], "roll back instead"),
        (["reject", "9", "--why", "x"], "has no version 9"),
        (["rollback", "--why", "x"], "no champion before version 1"),
        (["rollback", "--to", "2", "--why", "x"], "was never champion"),
        (["rollback", "--to", "1", "--why", "x"], "is the champion already"),
        (["show", "9"], "has no version 9"),
        (["diff", "1", "9"], "has no version 9"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    decide: Decide, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    decide(1)
    decide(2, "rejected", 1, "slow")
    shown = registry(capsys, *words, status=2)
    assert shown.startswith("error: ")
    assert shown.count("\n") == 1
    assert expected in shown
    assert "version 1 is champion" in registry(capsys, "history")


def test_an_alias_moved_by_hand_is_reported(decide: Decide, store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    decide(1)
    decide(2, "rejected", 1, "slow")
    store.client.set_registered_model_alias(NAME, "champion", "2")
    assert "points to version 2" in registry(capsys, "history")


def test_no_ledger_yet(store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.artifacts.parent)
    store.client.create_registered_model(NAME)
    assert f"{NAME}: no champion yet" in registry(capsys, "history")


def test_an_unknown_model_is_one_line_and_nothing_is_created(
    decide: Decide, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide(1)
    assert main(["registry", "history", "--model-name", "dbrnet"]) == 2
    assert capsys.readouterr().err.endswith(f"; its models: {NAME}\n")
    assert main(["registry", "history", "--model-name", "a'b"]) == 2
    assert "--model-name a'b: a name has letters" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert main(["registry", "history"]) == 2
    assert "say which model with --model-name" in capsys.readouterr().err
    assert "its models: none yet" in registry(capsys, "history", status=2)
    assert not list(empty.iterdir())


def test_a_champion_that_was_deleted_does_not_come_back(
    decide: Decide, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    decide(1)
    decide(2, against=1)
    store.client.delete_model_version(NAME, "1")
    assert "has no version 1" in registry(capsys, "rollback", "--why", "coil 4711", status=2)


def test_scripts_read_json(decide: Decide, capsys: pytest.CaptureFixture[str]) -> None:
    decide(1)
    decide(2, "needs review", 1, "too close")
    history = json.loads(registry(capsys, "history", "--json"))
    assert (history["model"], history["champion"], history["challenger"]) == (NAME, 1, 2)
    assert [event["version"] for event in history["events"]] == [1, 2]
    shown = json.loads(registry(capsys, "show", "2", "--json"))
    assert (shown["version"], shown["role"], shown["revoked"]) == (2, "challenger", None)
    assert shown["events"][0]["why"] == "too close"
    sides = json.loads(registry(capsys, "diff", "1", "2", "--json"))["versions"]
    assert (sides["1"]["test miou"], sides["2"]["test miou"]) == (0.71, 0.72)
