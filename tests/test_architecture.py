"""Layering: a package imports only lower ones, and each library is imported in one place."""

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dbrnet.config import Params
from dbrnet.steps import STAGES, STEPS, TASKS, Step
from dbrnet.training.start import GENERATED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dbrnet"
# The modules that any room may import; each imports only those before it.
FOUNDATION = (
    *("addresses", "errors", "bounds", "retries", "files"),
    *("process_group", "progress", "records", "provenance", "parallel"),
)
ROOMS: dict[str, set[str]] = {  # each room, from the lowest, and which rooms it imports
    "storage": set(),
    "data": {"storage"},
    "overlay": {"data"},
    "models": {"data"},
    "evaluation": {"data"},
    "audit": {"data", "evaluation"},
    "training": {"data", "models", "evaluation"},
    "drift": {"data"},
    "inference": {"storage", "data", "overlay", "models"},
    "benchmark": {"data", "models", "inference"},
    "registry": set(),
    "api": {"data", "inference", "registry"},
    "cluster": {"storage", "data"},
    "reports": {"data", "overlay", "evaluation", "audit", "benchmark", "registry"},
    "serving": {"data", "inference", "reports"},
    "config": {"training", "inference"},
}
ENTRANCES = ("steps", "commands", "cli", "__main__")  # each may import all the rooms, and the entrances before it
ORDER = [*FOUNDATION, *ROOMS, *ENTRANCES]
ALLOWED_IMPORTERS = {
    "mlflow": ["registry/"],
    "albumentations": ["training/augmentation.py"],
    "PIL": ["data/image_decoding.py"],
    "boto3": ["storage/s3.py"],
    "tenacity": ["retries.py"],
    "kubernetes": ["cluster/api.py"],
    "fastapi": ["serving/"],
    "uvicorn": ["serving/server.py"],
    "prometheus_client": ["serving/worker.py"],
    "cyclopts": ["cli.py", "commands/"],
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


def package_of(module: str) -> str:
    """`dbrnet.data.split` is in `data`; a module such as `dbrnet.files` stands for itself."""
    return module.split(".")[1]


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def imported_by(package: str) -> set[str]:
    """The packages and modules of ours that a package, or a module that stands for itself, imports."""
    files = [file for file in FILES if file.relative_to(PACKAGE).parts[0].removesuffix(".py") == package]
    names = {package_of(name) for file in files for name in imports(file) if name.startswith("dbrnet.")}
    return names - {package, "__version__"}


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_down_only(package: str) -> None:
    assert imported_by(package) <= set(ORDER[: ORDER.index(package)])


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_the_rooms_it_is_allowed(room: str) -> None:
    assert imported_by(room) - set(FOUNDATION) == ROOMS[room]
    assert ROOMS[room] <= set(list(ROOMS)[: list(ROOMS).index(room)])


def test_every_room_has_its_place() -> None:
    assert {file.relative_to(PACKAGE).parts[0].removesuffix(".py") for file in FILES} == set(ORDER)


@pytest.mark.parametrize("library", ALLOWED_IMPORTERS)
def test_each_library_is_imported_in_one_place(library: str) -> None:
    users = {
        str(file.relative_to(PACKAGE)) for file in FILES for name in imports(file) if name.split(".")[0] == library
    }
    violations = {user for user in users if not any(user.startswith(door) for door in ALLOWED_IMPORTERS[library])}
    assert not violations, f"{library} is imported by {violations}"


def test_steps_are_the_sections_the_stages_and_the_modules() -> None:
    sections = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
    modules = {file.stem for file in (PACKAGE / "steps").glob("*.py")} - {"__init__"}
    assert list(sections) == list(Params.model_fields) == [step.section for step in STEPS]
    assert {step.identifier for step in STEPS} <= modules
    assert {step.section for step in TASKS} <= set(sections)


@pytest.mark.parametrize("step", [*STEPS, *TASKS], ids=lambda step: step.name)
def test_a_step_takes_what_the_registry_says(step: Step) -> None:
    parameters = inspect.signature(step.function()).parameters
    registered = [*step.inputs, *step.optional_inputs, *(option.name for option in step.options)]
    assert set(parameters) == {"params", *registered, *(["out"] if step.out else [])}
    assert parameters["params"].annotation is Params.model_fields[step.section].annotation
    required = {name for name, parameter in parameters.items() if parameter.default is inspect.Parameter.empty}
    optional = {*step.optional_inputs, *(option.name for option in step.options if not option.required)}
    assert required == set(parameters) - optional
    for name in step.paths & set(parameters):
        assert parameters[name].annotation in (Path, Path | None)


def test_dvc_yaml_runs_the_steps_of_the_registry() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    assert list(stages) == [step.name for step in STAGES]
    for step in STAGES:
        stage, line = stages[step.name], step.command_line()
        assert stage["cmd"] == line
        assert stage["params"] == [step.section]
        assert stage["outs"] == [step.folder]
        read = [word for word in line.split()[2:] if not word.startswith("--") and word != step.folder]
        inputs = [dep for dep in stage["deps"] if not dep.startswith(("dbrnet/", "$"))]
        folders = [other.folder for dep in inputs for other in STAGES if Path(dep).is_relative_to(other.folder)]
        assert list(dict.fromkeys(folders)) == read
        assert "data/split" not in inputs  # with its page, which must not train again


def test_training_again_follows_from_a_change_of_what_it_imports() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    deps = [ROOT / dep for dep in stages["train"]["deps"] if dep.startswith("dbrnet/")]
    files = {file for file in (PACKAGE / "training").glob("*.py") if file.name != "pretraining.py"}
    names = {name for file in files for name in imports(file) if name.startswith("dbrnet.")}
    modules = {ROOT / f"{name.replace('.', '/')}.py" for name in names if package_of(name) in ROOMS}
    used = {module for module in modules if module.exists()} - {PACKAGE / "data/dataset.py"}  # which only reads files
    assert PACKAGE / "evaluation/metrics.py" in used
    assert not {module for module in used if not any(module.is_relative_to(dep) for dep in deps)}
    assert any(GENERATED.is_relative_to(dep) for dep in deps)
