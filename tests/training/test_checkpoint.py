import logging
import os
import time
from pathlib import Path

import pytest
import torch

from dbrnet.files import claim
from dbrnet.training.checkpoint import (
    CHECKPOINT_FILE,
    FINISHED_FILE,
    FORMAT,
    KEPT_DAYS,
    drop_stale,
    load_checkpoint,
    mark_finished,
    save_checkpoint,
)

STATE = {"weights": {"a": torch.arange(5.0)}, "step": 3, "best": None}


def test_a_checkpoint_loads_as_it_was_saved(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "mine", STATE)
    state = load_checkpoint(tmp_path, "mine")
    assert state is not None
    assert torch.equal(state["weights"].pop("a"), torch.arange(5.0))
    assert state == {"weights": {}, "step": 3, "best": None}


@pytest.mark.parametrize("content", ["another", "empty", "half", "text", "list", "code"])
def test_a_broken_checkpoint_or_another_runs_is_ignored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    save_checkpoint(tmp_path, "another" if content == "another" else "mine", STATE)
    path = tmp_path / CHECKPOINT_FILE
    whole = path.read_bytes()
    if content == "list":
        torch.save([1, 2], path)
    elif content == "code":
        torch.save({"format": FORMAT, "fingerprint": "mine", "state": Path}, path)
    elif content != "another":
        path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"not a checkpoint"}[content])
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(tmp_path, "mine") is None
    (message,) = caplog.messages
    assert ("another recipe, dataset or split" if content == "another" else "broken") in message


def test_partial_files_of_a_killed_writer_are_removed_and_nothing_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / f".{CHECKPOINT_FILE}.x1y2.partial").write_bytes(b"half")
    assert load_checkpoint(tmp_path, "mine") is None
    assert not list(tmp_path.iterdir())
    assert not caplog.records


def test_only_stale_checkpoints_of_ours_are_removed(tmp_path: Path) -> None:
    def folder(name: str, days: float, command: str = "train") -> Path:
        save_checkpoint(tmp_path / name, "mine", STATE)
        if command:
            claim(tmp_path / name, command)
        when = time.time() - days * 86400
        for path in (*(tmp_path / name).iterdir(), tmp_path / name):
            os.utime(path, (when, when))
        return tmp_path / name

    own, old, recent = (folder(16 * name, days) for name, days in (("a", 99), ("b", KEPT_DAYS + 1), ("c", 1)))
    foreign = [folder("d", 99), folder(16 * "e", 99, command=""), folder(16 * "f", 99, command="ingest")]
    drop_stale(tmp_path, own, "this code")
    assert [path.exists() for path in (own, old, recent, *foreign)] == [True, False, *4 * [True]]
    mark_finished(own, "this code")
    drop_stale(tmp_path, own, "this code")
    assert own.exists()
    drop_stale(tmp_path, own, "other code")
    assert not own.exists()
    drop_stale(tmp_path / "nowhere", own, "this code")


@pytest.mark.parametrize("content", ["", "[1]", '{"code": "of another version"}'])
def test_an_unreadable_finished_note_counts_as_stale(tmp_path: Path, content: str) -> None:
    save_checkpoint(tmp_path / "own", "mine", STATE)
    (tmp_path / "own" / FINISHED_FILE).write_text(content)
    drop_stale(tmp_path, tmp_path / "own", "this code")
    assert load_checkpoint(tmp_path / "own", "mine") is None
    assert not (tmp_path / "own" / FINISHED_FILE).exists()
