"""Checkpoints: written whole or not at all, read only by the run they belong to.

One folder may keep the checkpoints of many trainings, such as a volume in a cluster. There a finished training's
checkpoint stays for a while: its task may still fail, as when its output is sent on, and is then retried.
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
FORMAT = 3  # raised when the state's layout changes: an older checkpoint is then ignored


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


def mark_finished(workdir: Path, environment: str) -> None:
    """Note that the training in `workdir` is finished, with the digest of its code, libraries and accelerators."""
    write_json(workdir / FINISHED_FILE, {"environment": environment})


def drop_stale(checkpoints: Path, workdir: Path, environment: str) -> None:
    """Remove checkpoints that must not be resumed.

    These are a training in `workdir` that was finished in another `environment` (code, libraries, accelerators),
    and trainings in `checkpoints` that nothing has written to for `KEPT_DAYS`. Of the latter only our own folders,
    named by 16 hex digits, are removed.
    """
    finished = workdir / FINISHED_FILE
    if finished.exists():
        try:
            finished_in = read_json(finished).get("environment")
        except UserError:
            finished_in = None
        if finished_in != environment:
            (workdir / CHECKPOINT_FILE).unlink(missing_ok=True)  # first, in case this process is killed here
            finished.unlink()
            with suppress(OSError):
                remove_own(workdir)
    oldest = time.time() - KEPT_DAYS * 86400
    for folder in checkpoints.glob("*") if checkpoints.is_dir() else ():
        if re.fullmatch("[0-9a-f]{16}", folder.name) and folder != workdir:
            with suppress(OSError):  # another process trains there, or removes it, at the same time
                old = all(path.stat().st_mtime < oldest for path in (folder, *folder.glob("*")))
                if old and is_marked(folder, "train"):
                    remove_own(folder)
