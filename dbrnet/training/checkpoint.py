"""Checkpoints: written whole or not at all, read only by the run they belong to.

Where a folder keeps those of many trainings, such as a volume in a cluster, one that was finished stays for a
while: its task may still fail, as when what it wrote is sent on, and is then tried again.
"""

import io
import logging
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from dbrnet.errors import UserError
from dbrnet.files import is_marked, read_json, remove_own, write_atomically, write_json

log = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.pt"
FINISHED_FILE = "finished.json"
KEPT_DAYS = 14
FORMAT = 1  # raised when the state's layout changes: an older checkpoint is then ignored


def save_checkpoint(workdir: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `workdir`; a process killed meanwhile leaves the previous one."""
    content = io.BytesIO()
    torch.save({"format": FORMAT, "fingerprint": fingerprint, "state": state}, content)
    write_atomically(workdir / CHECKPOINT_FILE, content.getvalue())


def load_checkpoint(workdir: Path, fingerprint: str) -> dict[str, Any] | None:
    """The state saved in `workdir`, on the CPU; None where there is none, it is broken or another run's."""
    path = workdir / CHECKPOINT_FILE
    for left_over in workdir.glob(f".{CHECKPOINT_FILE}.*.partial"):
        left_over.unlink(missing_ok=True)
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        owner, state = (content["format"], content["fingerprint"]), content["state"]
    except Exception:  # foreign bytes make the unpickler raise nearly anything
        log.warning("%s is broken and is ignored: training starts afresh", path)
        return None
    if owner != (FORMAT, fingerprint):
        log.warning("%s is of another recipe, dataset or split and is ignored: training starts afresh", path)
        return None
    return dict(state)


def mark_finished(workdir: Path, by: str) -> None:
    """Note that the training in `workdir` was finished, and `by` what: code, libraries, accelerators."""
    write_json(workdir / FINISHED_FILE, {"by": by})


def drop_stale(checkpoints: Path, workdir: Path, by: str) -> None:
    """Remove what nobody should go on with.

    That is a training in `workdir` that something else than `by` has finished, and those in `checkpoints`,
    each in a folder of ours named by 16 hex digits, that were left alone for `KEPT_DAYS`.
    """
    finished = workdir / FINISHED_FILE
    if finished.exists() and _read(finished) != by:
        (workdir / CHECKPOINT_FILE).unlink(missing_ok=True)  # first, should we be killed
        finished.unlink()
        with suppress(OSError):
            remove_own(workdir)
    oldest = time.time() - KEPT_DAYS * 86400
    for folder in checkpoints.glob("*") if checkpoints.is_dir() else ():
        if re.fullmatch("[0-9a-f]{16}", folder.name) and folder != workdir:
            with suppress(OSError):  # somebody trains there, or removes it, too
                old = all(path.stat().st_mtime < oldest for path in (folder, *folder.glob("*")))
                if old and is_marked(folder, "train"):
                    remove_own(folder)


def _read(finished: Path) -> object:
    try:
        return read_json(finished).get("by")
    except UserError:
        return None
