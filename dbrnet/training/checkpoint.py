"""Checkpoints: written whole or not at all, read only by the run they belong to."""

import io
import logging
from pathlib import Path
from typing import Any

import torch

from dbrnet.files import write_atomically

log = logging.getLogger(__name__)

CHECKPOINT_FILE = "checkpoint.pt"
FORMAT = 1  # raised when the state's layout changes: an older checkpoint is then ignored


def save_checkpoint(workdir: Path, fingerprint: str, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `workdir`; a process killed meanwhile leaves the former one."""
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
