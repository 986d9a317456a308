"""Writing atomically: a failure or a kill leaves what was there before."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, read_json, write_atomically, write_json


def test_a_failed_block_leaves_the_previous_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_directory(out) as folder:
        (folder / "a").write_text("first")
    with pytest.raises(RuntimeError, match="half way"), atomic_directory(out) as folder:
        (folder / "a").write_text("second")
        raise RuntimeError("half way")
    assert (out / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("first", "second"):
        with atomic_directory(out) as folder:
            (folder / name).touch()
    assert [path.name for path in out.iterdir()] == ["second"]


def test_a_killed_block_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from dbrnet.files import atomic_directory\n"
        "with atomic_directory(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').touch(); print('ready', flush=True); time.sleep(60)"
    )
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    assert not out.exists()
    with atomic_directory(out) as folder:
        assert not list(folder.iterdir()), "the killed run's remains are cleared"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_file_in_the_folders_place_is_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(UserError, match="is a file, and a folder is to be written there"),
        atomic_directory(tmp_path / "out"),
    ):
        pass
    assert (tmp_path / "out").read_text() == "mine"


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    code = (
        "import sys; from pathlib import Path; from dbrnet.files import write_atomically\n"
        "while True:\n"
        "    for byte in b'ab': write_atomically(Path(sys.argv[1]), bytes([byte]) * 1_000_000)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)]) as process:
        until = time.monotonic() + 10
        while not path.exists() and time.monotonic() < until:
            time.sleep(0.01)
        seen = [path.read_bytes() for _ in range(200)]
        process.kill()
    assert {len(content) for content in seen} == {1_000_000}
    assert all(len(set(content)) == 1 for content in seen)


def test_json_is_stable_and_refuses_nan(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [None, 0.1]})
    assert read_json(tmp_path / "a.json") == {"a": [None, 0.1], "b": 1}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"b": float("nan")})
    assert read_json(tmp_path / "a.json")["b"] == 1


@pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
def test_broken_json_is_named(tmp_path: Path, content: str) -> None:
    write_atomically(tmp_path / "a.json", content)
    with pytest.raises(UserError, match=r"a\.json"):
        read_json(tmp_path / "a.json")
    with pytest.raises(UserError, match=r"gone\.json does not exist"):
        read_json(tmp_path / "gone.json")
