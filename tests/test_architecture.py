"""The house's rules: arrows run down only, and each library has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dbrnet.cli import STEPS
from dbrnet.params import Params

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dbrnet"
ROOMS = {"audit", "data", "drift", "models", "training", "evaluation", "deployment", "registry", "speed"}
ROOMS |= {"prediction", "serving", "review", "cluster"}
MAY_USE = {
    "audit": {"data", "evaluation.metrics"},
    "drift": {"data", "evaluation.plots"},
    "data": set(),
    "models": {"data.dataset"},
    "training": {"data", "models", "evaluation.metrics"},
    "evaluation": {"data.dataset"},
    "deployment": {"data.dataset", "data.standardising", "models"},
    "registry": set[str](),
    "prediction": {"data", "deployment.runtimes"},
    "serving": {"data.dataset", "deployment.runtimes", "prediction"},
    "speed": {"data.dataset", "models", "deployment", "evaluation.plots"},
    "cluster": {"data.dataset", "data.linked", "data.s3_folder"},
    "review": {"speed.plots", "speed.table"},
}
DOORS = {
    "mlflow": ["registry/"],
    "albumentations": ["training/augmentation.py"],
    "PIL": ["data/pictures.py"],
    "boto3": ["data/s3.py"],
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


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_arrows_run_down_only(file: Path) -> None:
    place = file.relative_to(PACKAGE)
    room = place.parts[0]
    if room not in ROOMS:
        return
    for name in imports(file):
        if not name.startswith("dbrnet."):
            continue
        inside = name.removeprefix("dbrnet.")
        target = inside.split(".")[0]
        assert target not in {"steps", "tools", "cli", "params", "recipes"}, f"{place} reaches up to {name}"
        if target in ROOMS and target != room:
            allowed = MAY_USE[room]
            assert any(inside == good or inside.startswith(f"{good}.") for good in allowed) or (
                inside in {good.split(".")[0] for good in allowed}
            ), f"{place} reaches across to {name}"


@pytest.mark.parametrize("library", DOORS)
def test_one_library_one_door(library: str) -> None:
    users = {
        str(file.relative_to(PACKAGE))
        for file in FILES
        for name in imports(file)
        if name.split(".")[0] == library
    }
    strangers = {user for user in users if not any(user.startswith(door) for door in DOORS[library])}
    assert not strangers, f"{library} is imported by {strangers}"


def test_the_same_steps_everywhere() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    sections = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    modules = {file.stem for file in (PACKAGE / "steps").glob("*.py")} - {"__init__"}
    assert list(sections) == list(Params.model_fields) == list(STEPS)
    assert list(stages) == [step for step in STEPS if step != "drift"]  # it asks whether to run the others
    assert modules == set(STEPS)
    for step, stage in stages.items():
        assert stage["cmd"].split()[:2] == ["dbrnet", step]
        assert stage["params"] == [step]


def test_stages_name_what_their_commands_read_and_write() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    for step, stage in stages.items():
        words = stage["cmd"].split()[2:]
        out = words[words.index("--out") + 1]
        assert stage["outs"] == [out]
        read = [word for word in words if not word.startswith("--") and word != out]
        assert [dep for dep in stage["deps"] if not dep.startswith(("dbrnet/", "$"))] == read, step
