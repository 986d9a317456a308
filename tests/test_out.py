"""--out: a command removes and overwrites nothing that it did not write itself."""

from pathlib import Path

import pytest

from dbrnet.cli import call, main
from dbrnet.files import claim
from dbrnet.steps import STEPS
from tests.command_lines import LINES, arguments_of, is_positional, type_of

ROOT = Path(__file__).parents[1]


COMMANDS = [line for line in LINES if "out" in arguments_of(line)]
REFUSED = {  # --out, and what the message says of it
    "": "the path is empty",
    ".": "is the working folder or contains it",
    "..": "is the working folder or contains it",
    "mine/..": "is the working folder or contains it",
    "HOME": "is the working folder or contains it",
    "data": "holds files that",
    "mine": "holds files that",
    "link": "holds files that",
    "theirs": "holds files that",
    "mine/notes.txt": "is a file, and a folder is to be written there",
    "../other/run": ".run.partial holds files that",
    "../other/old": ".old.previous holds files that",
}

OWN = {"generate": "source", "ingest": "dataset", "split": "split"}  # what a command writes below data/


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with a project, which is the working folder, and files of the user's in many places."""
    home = tmp_path / "home"
    texts = {
        "letter.txt": "dear",
        "project/.git/HEAD": "ref: refs/heads/main",
        "project/params.yaml": (ROOT / "params.yaml").read_text().replace("data/steel-strip", "data/source"),
        "project/mine/notes.txt": "mine",
        "project/theirs/result.txt": "of another command",
        "project/data/source/train.csv": "ImageId,ClassId,EncodedPixels\n",
        "other/.run.partial/notes.txt": "mine",
        "other/.old.previous/notes.txt": "mine",
    }
    for name, text in texts.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    claim(home / "project/theirs", "nothing")
    (home / "project/link").symlink_to("mine")
    monkeypatch.chdir(home / "project")
    return home


def words(command: str) -> list[str]:
    """The command line but for --out, with a folder in data/in for each argument that may name one."""
    positional, named = [], []
    for name, argument in arguments_of(command).items():
        if name in {"sources", "model", "against"} or (type_of(argument) is Path and name not in {"out", "params"}):
            path = Path("data/in") / name
            path.mkdir(parents=True)
            (path / "content.txt").write_text(name)
            if is_positional(argument):
                positional.append(str(path))
            else:
                named += [f"--{name}", str(path)]
    return [command, *positional, *named]


def inputs_of(line: list[str]) -> list[Path]:
    return [Path(word) for word in line if word.startswith("data/in/")]


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """What is there: files' contents, links' targets, folders."""

    def content(path: Path) -> bytes | str | None:
        if path.is_symlink():
            return str(path.readlink())
        return path.read_bytes() if path.is_file() else None

    return {str(path.relative_to(folder)): content(path) for path in folder.rglob("*")}


def assert_refused(line: list[str], message: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(home)
    assert main(line) == 2
    assert tree(home) == before
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert message in error


def test_all_commands_with_an_out_are_tested() -> None:
    assert {*(step.name for step in STEPS), "audit", "generate", "predict", "pretrain"} == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("out", REFUSED, ids=lambda out: out or "empty")
def test_what_a_command_did_not_write_is_refused(
    command: str, out: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = [*words(command), f"--out={home if out == 'HOME' else out}"]
    assert_refused(line, REFUSED[out], home, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_inputs_are_refused(command: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = words(command)
    for given in inputs_of(line):
        assert_refused([*line, "--out", str(given)], "holds files that", home, capsys)
        assert_refused([*line, "--out", str(given.parent)], "holds files that", home, capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_inputs_are_refused_also_in_a_folder_that_the_command_wrote(
    command: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = words(command)
    for given in inputs_of(line):
        claim(given, command)
        assert_refused([*line, "--out", str(given)], "overlaps with", home, capsys)
    claim(Path("data/in"), command)
    if inputs_of(line):
        assert_refused([*line, "--out", "data/in"], "overlaps with", home, capsys)


@pytest.mark.parametrize("command", sorted(set(COMMANDS) - {"ingest", "generate", "predict"}))
def test_an_output_inside_an_input_is_refused(command: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = words(command)
    for given in inputs_of(line):
        assert_refused([*line, "--out", str(given / "new")], "overlaps with", home, capsys)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("data/source", "holds files that"),
        ("data/source/new", "overlaps with ingest.source data/source"),
        ("own", "overlaps with ingest.source own/source"),
        ("own/previous", "overlaps with ingest.previous own/previous"),
        ("own/previous/new", "overlaps with ingest.previous own/previous"),
    ],
)
def test_ingest_refuses_what_params_yaml_names(
    home: Path, capsys: pytest.CaptureFixture[str], out: str, message: str
) -> None:
    text = Path("params.yaml").read_text().replace("dataset: steel-strip ", "dataset: factory ", 1)
    text = text.replace("classes: []", "classes: [scratch]", 1)
    if out.startswith("own"):
        text = text.replace("previous: null", "previous: own/previous", 1)
        text = text.replace("source: data/source", "source: own/source", 1)
        for folder in ("own/previous", "own/source"):
            claim(Path(folder), "ingest")
    if out == "own":
        claim(Path(out), "ingest")
    Path("params.yaml").write_text(text)
    assert_refused(["ingest", "--out", out], message, home, capsys)


def test_split_refuses_its_previous_split(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("params.yaml").read_text()
    at = text.index("\nsplit:")
    Path("params.yaml").write_text(text[:at] + text[at:].replace("previous: null", "previous: old/split", 1))
    for folder in ("old", "old/split"):
        claim(Path(folder), "split")
        assert_refused(["split", "data/source", "--out", folder], "split.previous old/split", home, capsys)


def test_predict_may_write_into_a_folder_among_its_sources(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It leaves out its own masks and overlays; here it gets as far as its model, which is not there."""
    assert main(["predict", "mine", "--model", "gone.onnx", "--out", "mine/answers"]) == 2
    assert "gone.onnx: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["", ".", "data"])
def test_a_component_is_refused_as_the_command_is(out: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(home)
    with pytest.raises(SystemExit) as ended:
        call("split", "{}", dataset="data/source", out=out)
    assert ended.value.code == 2
    assert tree(home) == before
    [error] = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")


def test_an_empty_input_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(["split", "", "--out", "new"], "dataset: the path is empty", home, capsys)
    assert_refused(["split", "data", "--params=", "--out", "new"], "params: the path is empty", home, capsys)


def test_a_pipeline_keeps_the_project(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With data for which each command would succeed."""
    Path("data/source/train.csv").unlink()  # an empty folder is taken
    commands = (["generate", "--count", "60"], ["ingest"], ["split", "data/dataset"])
    for line in commands:
        assert main([*line, f"--out=data/{OWN[line[0]]}"]) == 0
    capsys.readouterr()
    for line in (*commands, ["audit", "data/dataset"]):
        foreign = {"data/source", "data/dataset", "data/split"} - {f"data/{OWN.get(line[0])}"}
        for out in ("", ".", "..", str(home), "data", "mine", *sorted(foreign)):
            assert_refused([*line, f"--out={out}"], "", home, capsys)
    before = tree(home)
    for line in commands:  # its own is replaced
        Path("data", OWN[line[0]], "stale").touch()
        assert main([*line, f"--out=data/{OWN[line[0]]}"]) == 0
    assert tree(home) == before
