"""Writing files so that a killed process never leaves half of one behind, and reading them back."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbrnet.errors import UserError


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


@contextmanager
def atomic_directory(out: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `out` when the block ends well, and vanishes when it fails.

    What `out` held before is replaced whole. A process killed inside the block leaves only a
    `.<name>.partial` folder, which the next run clears.
    """
    out = out.absolute()
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file, and a folder is to be written there; remove it or choose another")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        publish_directory(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def publish_directory(ready: Path, out: Path) -> None:
    """Move the finished folder `ready` to `out`, replacing what was there."""
    previous = out.with_name(f".{out.name}.previous")
    shutil.rmtree(previous, ignore_errors=True)
    if out.exists():
        out.replace(previous)
    ready.replace(out)
    shutil.rmtree(previous, ignore_errors=True)


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
