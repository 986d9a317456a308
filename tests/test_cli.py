"""The command line: its help, and one clear line with exit status 2 for whatever a user can get wrong."""

import os
import pty
import re
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbrnet.cli import app, main
from dbrnet.steps import BY_NAME
from tests.command_lines import LINES, arguments_of
from tests.secret import ADDRESS, SECRET

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: params.yaml for NEU-Seg, and twelve images in its layout in raw/."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params.yaml").read_text()
    text = text.replace("dataset: steel-strip ", "dataset: neu-seg ").replace("data/steel-strip", "raw")
    (tmp_path / "params.yaml").write_text(text)
    generator = np.random.default_rng(0)
    for number in range(12):
        part = "training" if number < 9 else "test"
        mask = np.zeros((40, 50), np.uint8)
        mask[5:15, 5:15] = number % 3 + 1
        for kind, suffix, pixels in (
            ("images", "jpg", generator.integers(60, 200, (40, 50), np.uint8)),
            ("annotations", "png", mask),
        ):
            path = tmp_path / "raw" / kind / part / f"{number:06d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(path), pixels)
    return tmp_path


def ingest(project: Path) -> int:
    return main(["ingest", "--out", "out"])


def split(project: Path) -> int:
    assert main(["ingest", "--out", "dataset"]) == 0
    return main(["split", "dataset", "--out", "out"])


def set_param(old: str, new: str) -> Callable[[Path], None]:
    def change(project: Path) -> None:
        path = project / "params.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new, 1))

    return change


def truncate_image(project: Path) -> None:
    path = project / "raw/images/training/000003.jpg"
    path.write_bytes(path.read_bytes()[:-200])


def resize_mask(project: Path) -> None:
    assert cv2.imwrite(str(project / "raw/annotations/training/000003.png"), np.zeros((40, 51), np.uint8))


def foreign_class(project: Path) -> None:
    assert cv2.imwrite(str(project / "raw/annotations/training/000003.png"), np.full((40, 50), 4, np.uint8))


def empty_dataset(project: Path) -> None:
    for path in (project / "raw").rglob("*.*g"):
        path.unlink()


def corrupt_archive(project: Path) -> None:
    with zipfile.ZipFile(project / "raw.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((project / "raw").rglob("*.*g")):
            archive.write(path, path.relative_to(project / "raw"))
    content = bytearray((project / "raw.zip").read_bytes())
    content[500:700] = bytes(200)
    (project / "raw.zip").write_bytes(content)
    set_param("source: raw ", "source: raw.zip ")(project)


def wrong_columns(project: Path) -> None:
    set_param("dataset: neu-seg", "dataset: severstal")(project)
    images = project / "raw/train_images"
    shutil.copytree(project / "raw/images/training", images)
    (project / "raw/train.csv").write_text("image,pixels\n000001.jpg,1 3\n")


def rare_class(project: Path) -> None:
    for number in (0, 3, 6, 9):
        part = "training" if number < 9 else "test"
        mask = np.full((40, 50), 1 if number < 6 else 0, np.uint8)
        assert cv2.imwrite(str(project / f"raw/annotations/{part}/{number:06d}.png"), mask)


def file_in_the_way(project: Path) -> None:
    (project / "out").write_text("mine")


@pytest.mark.parametrize(
    ("command", "spoil", "expected"),
    [
        (ingest, set_param("source: raw ", "source: gone.zip "), ["gone.zip"]),
        (ingest, corrupt_archive, ["raw.zip"]),
        (ingest, truncate_image, ["000003.jpg"]),
        (ingest, resize_mask, ["000003", "40"]),
        (ingest, foreign_class, ["000003.jpg: its mask", "4"]),
        (ingest, wrong_columns, ["train.csv", "ImageId"]),
        (ingest, empty_dataset, ["raw"]),
        (ingest, set_param("dataset: neu-seg", "dataset: neu"), ["ingest.dataset", "magnetic-tile"]),
        (ingest, set_param("  seed: 0", "  sed: 0"), ["split.sed", "unknown parameter", "seed"]),
        (ingest, set_param("  seed: 0", "  seed: -1"), ["split.seed", "-1"]),
        (ingest, file_in_the_way, ["out", "is a file"]),
        (split, rare_class, ["inclusion", "2"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_what_a_user_gets_wrong_is_one_line_and_status_2(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    command: Callable[[Path], int],
    spoil: Callable[[Path], None],
    expected: list[str],
) -> None:
    spoil(project)
    before = {path for path in project.iterdir() if path.name != "dataset"}
    assert command(project) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in lines[0]
    for words in expected:
        assert words in lines[0]
    after = {path for path in project.iterdir() if path.name != "dataset"}
    assert after == before, "nothing is half-written"


def run(arguments: list[str], folder: Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dbrnet", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        **options,  # type: ignore[call-overload]
    )


def test_no_room_is_one_line_and_what_was_there_stays(project: Path) -> None:
    assert main(["ingest", "--out", "dataset"]) == 0
    card = (project / "dataset/card.json").read_text()

    def no_room() -> None:  # a file size limit: what the kernel answers is what a full disk's write gets
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))

    done = run(["ingest", "--out", "dataset"], project, preexec_fn=no_room)
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: ")
    assert (project / "dataset/card.json").read_text() == card
    assert not [path for path in project.iterdir() if path.name.endswith((".partial", ".previous"))]


@pytest.mark.skipif(
    not os.environ.get("DBRNET_NO_SKIPS")
    and subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0,
    reason="needs unprivileged user namespaces: enable them, or run in CI's container",
)
def test_a_full_disk_and_a_read_only_one(project: Path) -> None:
    (project / "disk").mkdir()
    generate = f"{sys.executable} -m dbrnet generate --out disk/steel --count 60"
    for options, expected in (("size=300k", "No space left on device"), ("ro", "Read-only file system")):
        script = f"mount -t tmpfs -o {options} tmpfs disk && {generate}; code=$?; ls -A disk; exit $code"
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script],
            cwd=project,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith(f"error: {expected}")
        assert done.stderr.count("\n") == 1
        assert not done.stdout, "nothing half-written is left on the disk"


COMMANDS = [name for name in app if not name.startswith("-")]


def test_help_names_every_command_in_its_group_with_its_summary(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for group in ("Start", "Pipeline", "Use", "Operate"):
        assert f"─ {group} ─" in text
    shown = {line.split()[1]: line.split()[2:] for line in text.splitlines() if re.match(r"│ \S", line)}
    assert set(shown) == {*COMMANDS, "--help", "--version"} - {"worker"}
    assert [name for name in shown if name in BY_NAME] == list(BY_NAME)
    for name in set(COMMANDS) & set(shown):
        assert shown[name][:2] == app[name].help.split()[:2]


def test_a_bare_command_prints_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == main(["registry"]) == 0
    out = capsys.readouterr().out
    assert "Usage: dbrnet COMMAND" in out
    assert "Usage: dbrnet registry COMMAND" in out


@pytest.mark.parametrize("line", LINES)
def test_each_command_explains_itself(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*line.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"Usage: dbrnet {line}")
    examples = text.partition("For example:\n")[2].partition("╭")[0]
    assert examples.count(f"dbrnet {line}") == 2
    arguments = [entry for entry in text.splitlines() if entry.startswith(("│    --", "│ *  ", "│ --"))]
    assert all(len(entry.split()) > 4 for entry in arguments), "each argument has its help"
    assert "Writes" in text or "out" not in arguments_of(line)
    assert ("--model-name" in text) == line.startswith("registry ")


LAZY = ["torch", "mlflow", "cv2", "pydantic", "pandas", "boto3"]


@pytest.mark.parametrize(
    ("code", "libraries"),
    [
        *((f"from dbrnet.cli import main; main({words})", LAZY) for words in (["--help"], ["train", "--help"])),
        *(
            (f"from dbrnet.cli import main; main({words})", LAZY)
            for words in (["registry", "history", "--help"], ["x"])
        ),
        ("import dbrnet", [*LAZY, "numpy"]),
        ("import dbrnet.inference.images, dbrnet.serving.app, dbrnet.steps.ingest", ["boto3"]),
    ],
)
def test_slow_libraries_are_imported_only_where_they_are_used(code: str, libraries: list[str]) -> None:
    script = f"import sys; {code}; print(*(set({libraries}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert not done.stdout.splitlines()[-1], done.stderr


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("trian",), 'unknown command "trian". Did you mean "train"?; see: dbrnet --help'),
        (("registry", "histroy"), 'Did you mean "history"?; see: dbrnet registry --help'),
        (("ingest", "--out", "x", "--param", "y"), "unknown option: --param. Did you mean --params?"),
        (("ingest", "--out", "x", "--quickly"), "unknown option: --quickly; see: dbrnet ingest --help"),
        (("ingest", "raw", ADDRESS, "--out", "x"), "unexpected argument: raw https://data.invalid/set/raw.zip; see: d"),
        (("split", "--out", "x"), 'command "split" parameter DATASET requires an argument; see: dbrnet split --help'),
        (("generate", "--out", "x", "--count", "many"), 'unable to convert "many" into int'),
        (("generate", "--out", "/proc/x"), "/proc takes no folders; choose another place for --out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_wrong_command_line_is_one_line_with_the_remedy(
    words: tuple[str, ...], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    result = capsys.readouterr().err
    assert result.startswith("error: ")
    assert result.count("\n") == 1
    assert line in result
    assert SECRET not in result


def in_terminal(line: str, folder: Path, **environment: str) -> str:
    """What a command prints on a terminal."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "dbrnet", *line.split()],
        cwd=folder,
        stdin=its,
        stdout=its,
        stderr=its,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color"} | environment,
    )
    os.close(its)
    shown = b""
    with suppress(OSError):  # how Linux ends what a terminal has to say
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    process.wait()
    return shown.decode().replace("\r\n", "\n")


def test_color_is_for_a_terminal_that_wants_it(tmp_path: Path) -> None:
    for line in ("--help", "registry --help", "trian"):
        assert re.search(r"\x1b\[(\d+;)*3\d", in_terminal(line, tmp_path))
        assert "\x1b[" not in in_terminal(line, tmp_path, NO_COLOR="1")
    done = run(["--help"], tmp_path), run(["trian"], tmp_path)
    assert "\x1b[" not in "".join(one.stdout + one.stderr for one in done)


def test_a_step_says_on_a_terminal_that_it_speaks_and_what_comes_next(project: Path) -> None:
    shown = in_terminal("ingest --out mine", project)
    assert shown.startswith("[1/8] ingest\n")
    assert "[1/8] ingest: done in " in shown
    assert shown.endswith("next: dbrnet split mine --out data/split\n")
    shown = in_terminal("ingest --out mine", project, DVC_STAGE="ingest")
    assert "[1/8] ingest" in shown
    assert "next:" not in shown, "DVC runs it itself"
    assert "[1/8]" not in run(["ingest", "--out", "mine"], project).stderr
