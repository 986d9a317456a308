"""The rules of the house: imports run down only, and each library has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dbrnet.cli import STEPS
from dbrnet.config import Params

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dbrnet"
ORDER = [  # each imports only what stands before it
    "addresses",
    "errors",
    "bounds",
    "retries",
    "files",
    "process_group",
    "progress",
    "records",
    "provenance",
    "parallel",
    "storage",
    "data",
    "overlay",
    "models",
    "evaluation",
    "audit",
    "training",
    "drift",
    "inference",
    "benchmark",
    "registry",
    "cluster",
    "reports",
    "serving",
    "config",
    "steps",
    "commands",
    "cli",
    "__main__",
]
DOORS = {
    "mlflow": ["registry/"],
    "albumentations": ["training/augmentation.py"],
    "PIL": ["data/image_decoding.py"],
    "boto3": ["storage/s3.py"],
    "tenacity": ["retries.py"],
    "kubernetes": ["cluster/api.py"],
    "fastapi": ["serving/"],
    "uvicorn": ["serving/server.py"],
    "prometheus_client": ["serving/metrics.py"],
    "kfp": [],
    "dvc": [],
}


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    """`dbrnet.data.split` is in the room `data`, `dbrnet.files` in a room of its own."""
    return module.split(".")[1]


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_run_down_only(file: Path) -> None:
    room = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imports(file):
        if name.startswith("dbrnet.") and room_of(name) in ORDER and room_of(name) != room:
            assert ORDER.index(room_of(name)) < ORDER.index(room), f"{file.relative_to(ROOT)} reaches up to {name}"


@pytest.mark.parametrize("library", DOORS)
def test_each_library_is_imported_in_one_place(library: str) -> None:
    users = {
        str(file.relative_to(PACKAGE)) for file in FILES for name in imports(file) if name.split(".")[0] == library
    }
    strangers = {user for user in users if not any(user.startswith(door) for door in DOORS[library])}
    assert not strangers, f"{library} is imported by {strangers}"


def test_the_same_steps_everywhere() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    sections = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    modules = {file.stem for file in (PACKAGE / "steps").glob("*.py")} - {"__init__", "checks", "thresholds"}
    assert list(sections) == list(Params.model_fields) == [step.replace("-", "_") for step in STEPS]
    assert list(stages) == [step for step in STEPS if step != "drift"]  # it asks whether to run the others
    assert modules == set(sections)
    for step, stage in stages.items():
        assert stage["cmd"].split()[:2] == ["dbrnet", step]
        assert stage["params"] == [step.replace("-", "_")]


def test_stages_name_what_their_commands_read_and_write() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    for step, stage in stages.items():
        words = stage["cmd"].split()[2:]
        out = words[words.index("--out") + 1]
        assert stage["outs"] == [out]
        read = [word for word in words if not word.startswith("--") and word != out]
        assert [dep for dep in stage["deps"] if not dep.startswith(("dbrnet/", "$"))] == read, step
