"""Writing files and folders: a killed process leaves no half of one, and nothing of a user's is removed."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dbrnet.errors import UserError

MARKER = ".dbrnet"  # in each folder that a command wrote, its name: the same bytes at each run


def write_atomically(path: Path, content: bytes | str) -> None:
    """Write `content` to `path`: either all of it is there afterwards, or what was there before."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def require_own(folder: Path, command: str) -> None:
    """Raise `UserError` unless `dbrnet COMMAND` may write `folder` and remove what is in it.

    It may where nothing is there yet, where the folder is empty, and where it wrote the folder itself, which
    MARKER says. It never may in the working folder and in what contains that.
    """
    place = folder.resolve()
    if Path.cwd().is_relative_to(place):
        raise UserError(f"{folder} is the working folder or contains it; choose a folder of its own")
    if place.exists() and not place.is_dir():
        raise UserError(f"{folder} is a file, and a folder is to be written there; remove it or choose another")
    if place.is_dir() and any(place.iterdir()) and not is_marked(place, command):
        raise UserError(f"{folder} holds files that `dbrnet {command}` did not write; choose a new or an empty folder")


def require_apart(out: Path, read: Path, name: str, *, may_lie_inside: bool = False) -> None:
    """Raise `UserError` where writing the folder `out` would touch `read`, the input called `name`.

    That is where one of the two is the other or contains it. `may_lie_inside`: `read` may contain `out`.
    """
    place, other = out.resolve(), read.resolve()
    if other.is_relative_to(place) or (place.is_relative_to(other) and not may_lie_inside):
        raise UserError(f"{out} overlaps with {name} {read}, which is not to be written over; choose a separate folder")


def require_output(out: Path, command: str) -> None:
    """Raise `UserError` where `atomic_directory` would: to be asked before any work is done."""
    require_own(out, command)
    for beside in _beside(out.resolve()):
        require_own(beside, command)


def claim(folder: Path, command: str) -> None:
    """Make `folder` where it is not there, and mark it as one that `dbrnet COMMAND` wrote."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileNotFoundError:  # as /proc answers
        raise UserError(f"{folder.parent} takes no folders; choose another place for --out") from None
    (folder / MARKER).write_bytes(_mark(command))


def is_marked(folder: Path, command: str) -> bool:
    """Whether `dbrnet COMMAND` wrote `folder`, or began to."""
    marker = folder / MARKER
    return marker.is_file() and _mark(command).startswith(marker.read_bytes())  # a kill may cut it short


def remove_own(folder: Path) -> None:
    """Remove a folder that `require_own` allows, if it is there.

    The marker goes last: killed in the middle, the rest is still known as ours.
    """
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()
    shutil.rmtree(folder)


@contextmanager
def atomic_directory(out: Path, command: str) -> Iterator[Path]:
    """Yield a folder that becomes `out` when the block ends well, and vanishes when it fails.

    It is empty but for MARKER, which says that `dbrnet COMMAND` wrote it. What `out` held before is replaced
    whole; raises `UserError` where that is not the command's own (see `require_own`). A process killed inside
    the block leaves only hidden folders beside `out`, which the next run clears.
    """
    require_output(out, command)
    out = out.resolve()
    partial, previous = _beside(out)
    remove_own(partial)
    try:
        claim(partial, command)
        yield partial
        require_output(out, command)  # hours may have passed
        remove_own(previous)
        if out.exists():
            out.replace(previous)
        partial.replace(out)
    except BaseException:
        with suppress(OSError):
            remove_own(partial)
        raise
    with suppress(OSError):  # the next run clears it
        remove_own(previous)


def _beside(out: Path) -> tuple[Path, Path]:
    """Where what becomes `out` is written, and where what it replaces is kept meanwhile."""
    return out.with_name(f".{out.name}.partial"), out.with_name(f".{out.name}.previous")


def _mark(command: str) -> bytes:
    return f"written by dbrnet {command}\n".encode()


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, its keys in their own order, atomically. NaN is refused: use None."""
    write_atomically(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing or broken file is a `UserError` that names it."""
    try:
        value = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the step that writes it first") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); run the step that writes it again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} does not hold a JSON object; run the step that writes it again")
    return value


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file's content, as 64 hex digits, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
