"""Writing atomically: a failure or a kill leaves what was there before."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dbrnet.errors import UserError
from dbrnet.files import MARKER, atomic_directory, claim, read_json, remove_own, write_atomically, write_json


def test_a_failed_block_leaves_the_previous_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with atomic_directory(out, "split") as folder:
        (folder / "a").write_text("first")
    with pytest.raises(RuntimeError, match="half way"), atomic_directory(out, "split") as folder:
        (folder / "a").write_text("second")
        raise RuntimeError("half way")
    assert (out / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("first", "second"):
        with atomic_directory(out, "split") as folder:
            (folder / name).touch()
    assert {path.name for path in out.iterdir()} == {"second", MARKER}


def test_a_killed_block_leaves_nothing_that_is_trusted(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from dbrnet.files import atomic_directory\n"
        "with atomic_directory(Path(sys.argv[1]), 'split') as folder:\n"
        "    (folder / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    out = tmp_path / "out"
    assert subprocess.run([sys.executable, "-c", code, str(out)]).returncode == -signal.SIGKILL
    assert not out.exists()
    with atomic_directory(out, "split") as folder:
        assert [path.name for path in folder.iterdir()] == [MARKER], "the killed run's remains are cleared"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_marker_is_the_same_at_each_run(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "a", "b"):
        with atomic_directory(tmp_path / name, "split"):
            pass
        contents.append((tmp_path / name / MARKER).read_bytes())
    assert contents == [b"written by dbrnet split\n"] * 3


@pytest.mark.parametrize("name", ["out", ".out.partial", ".out.previous"])
@pytest.mark.parametrize("by", ["a user", "train"])
def test_only_the_commands_own_folders_are_removed(tmp_path: Path, name: str, by: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("mine")
    if by == "train":
        claim(tmp_path / name, by)
    with (
        pytest.raises(UserError, match=rf"{name} holds files that `dbrnet split` did not write"),
        atomic_directory(tmp_path / "out", "split"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name / "notes.txt").read_text() == "mine"


def test_what_a_user_puts_in_the_folders_place_meanwhile_is_kept(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did not write"), atomic_directory(tmp_path / "out", "split"):
        (tmp_path / "out").mkdir()
        (tmp_path / "out/notes.txt").write_text("mine")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {"out", "out/notes.txt"}


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk/out")
    for name in ("first", "second"):
        with atomic_directory(tmp_path / "out", "split") as folder:
            (folder / name).touch()
    assert (tmp_path / "out").readlink() == Path("disk/out")
    assert {path.name for path in (tmp_path / "disk/out").iterdir()} == {MARKER, "second"}
    assert {path.name for path in (tmp_path / "disk").iterdir()} == {"out"}


@pytest.mark.parametrize("marker", [b"written by dbrnet split\n", b""])
def test_a_kill_between_the_renames_or_in_the_marker_is_recovered_from(tmp_path: Path, marker: bytes) -> None:
    for name in (".out.partial", ".out.previous"):
        claim(tmp_path / name, "split")
        (tmp_path / name / MARKER).write_bytes(marker)
        (tmp_path / name / "table.csv").touch()
    with atomic_directory(tmp_path / "out", "split") as folder:
        (folder / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {MARKER, "new"}


def test_a_removal_that_is_cut_short_leaves_the_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(tmp_path / ".out.previous", "split")
    for name in ("a/b", "c/d"):
        (tmp_path / ".out.previous" / name).mkdir(parents=True)
    monkeypatch.setattr("dbrnet.files.shutil.rmtree", _killed)
    with pytest.raises(KeyboardInterrupt):
        remove_own(tmp_path / ".out.previous")
    monkeypatch.undo()
    assert len(list((tmp_path / ".out.previous").iterdir())) == 2, "one folder and the marker"
    with atomic_directory(tmp_path / "out", "split"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def _killed(path: Path) -> None:
    path.joinpath(next(path.iterdir())).rmdir()
    path.rmdir()
    raise KeyboardInterrupt


def test_a_file_in_the_folders_place_is_kept_and_named(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(UserError, match="is a file, and a folder is to be written there"),
        atomic_directory(tmp_path / "out", "split"),
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
