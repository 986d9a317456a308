"""The guides name only what exists: commands, options, parameters, files and messages."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from cyclopts import App
from ruamel.yaml import YAML

import dbrnet.cli  # noqa: F401  (adds the steps to the app)
from dbrnet.commands import app
from pipelines.__main__ import app as pipelines_app

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
FOLDERS = ("dbrnet", "components", "pipelines", "tests", "benchmarks", "deploy", "docs", "recipes", "image")
PROGRAMS = {"dbrnet": app, "python -m pipelines": pipelines_app}
CODE = re.compile(r"```.*?```|``[^`]+``|`[^`]+`", re.DOTALL)
COMMAND = re.compile(r"(?<![\w./:-])(?<!from )(?<!-n )(dbrnet|python -m pipelines)((?: [^\s#&|`]+)*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


def commands(text: str) -> Iterator[tuple[App, list[str]]]:
    """Each command in a page's code, and the words after the program's name."""
    for code in CODE.findall(text):
        joined = re.sub(r"\s*\\\n\s*", " ", code) if code.startswith("```") else " ".join(code.split())
        for line in joined.splitlines():
            for name, words in COMMAND.findall(line.split(" # ")[0]):
                if words and re.fullmatch(r"[a-z][\w-]*", words.split()[0]):
                    yield PROGRAMS[name], words.split()


def options(program: App) -> set[str]:
    arguments = program.assemble_argument_collection() if program.default_command else ()
    return {"--help", "--version", *(name for argument in arguments for name in argument.names)}


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=lambda page: page.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    for program, words in commands(page.read_text()):
        command = program
        while words and words[0] in command:
            command, words = command[words[0]], words[1:]
        shown = f"{page.name}: {' '.join(words)}"
        assert command is not program, f"no such command: {shown}"
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - options(command)
        assert not unknown, f"{unknown} are no options: {shown}"


@by_page
def test_options_named_alone_exist(page: Path) -> None:
    known = {"--nproc-per-node", "--allowed-hosts", "--trained", "--exported", "--evaluated"}  # torchrun, MLflow, ours
    for program in PROGRAMS.values():
        for name in program:
            if name[0] != "-":
                inner = [program[name][word] for word in program[name] if word[0] != "-"]
                known = known.union(*map(options, [program[name], *inner]))
    unknown = set(re.findall(r"`(--[a-z-]+)", page.read_text())) - known
    assert not unknown, f"{page.name}: {unknown}"


@by_page
def test_parameters_exist(page: Path) -> None:
    sections = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    for code in re.findall(r"`([^`\n]+)`", page.read_text()):
        if not (match := re.match(r"([a-z_]+)((?:\.[a-z_0-9]+)+)(?=$|[:\s])", code)) or match[1] not in sections:
            continue
        value = sections[match[1]]
        if match[2].rsplit(".", 1)[1] in ("json", "md", "py", "csv", "onnx", "yaml", "html", "txt", "pt", "png"):
            continue
        for key in match[2].strip(".").split("."):
            assert key in value, f"{page.name}: no parameter {code}"
            value = value[key]


@by_page
def test_links_and_pictures_resolve(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


@by_page
def test_files_of_the_repository_exist(page: Path) -> None:
    for path in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", page.read_text()):
        assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_every_page_is_in_the_sites_navigation_and_the_index() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")}
    assert set(re.findall(r"\b[\w-]+\.md\b", (ROOT / "mkdocs.yml").read_text())) == pages
    assert set(LINK.findall((ROOT / "docs/index.md").read_text())) >= pages - {"index.md"}


def test_every_picture_is_shown() -> None:
    shown = {Path(target).name for page in PAGES for target in LINK.findall(page.read_text())}
    assert {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".png", ".jpg")} <= shown


def test_no_page_needs_a_script_from_elsewhere() -> None:
    """The theme fetches what draws mermaid's diagrams from a server when a page is viewed."""
    assert not [page.name for page in PAGES if "```mermaid" in page.read_text()]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 900


def test_architecture_names_every_room() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rooms = {path.stem for path in (ROOT / "dbrnet").iterdir() if path.suffix in ("", ".py") and path.stem[0] != "_"}
    assert not {room for room in rooms if not re.search(rf"\b{room}\b", text)}


@cache
def messages() -> str:
    """Every text in the code; what an f-string fills in is a NUL."""
    texts = [(ROOT / "Makefile").read_text().replace('" \\\n\t\t\t"', " ")]
    for file in [*(ROOT / "dbrnet").rglob("*.py"), *(ROOT / "pipelines").glob("*.py")]:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                texts.append(
                    "".join(str(part.value) if isinstance(part, ast.Constant) else "\0" for part in node.values)
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_troubleshooting_quotes_the_codes_own_messages() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 30
    foreign = {"No space left on device", "unknown command"}  # of the system, of the parser
    for message in rows:
        for piece in (piece.strip(" .;:,()'\"") for piece in message.split("...")):
            assert len(piece) < 4 or piece in messages() or piece in foreign, f"{message}: {piece!r} is no message"
