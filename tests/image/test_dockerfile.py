"""What can be told of the image without building it; `make image-check` builds and runs it."""

import os
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import dbrnet
from tests.test_architecture import imports

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTALL = (ROOT / "image/install.sh").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
EXTRAS = re.findall(r"'\.\[([\w,]+)\]'", INSTALL)[0].split(",")


def stages() -> dict[str, list[str]]:
    """Each stage's instructions, those of the stages that it is made from first."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M).replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    name = ""
    for line in filter(None, map(str.strip, text.splitlines())):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = list(found.get(match[1], []))
        elif name:
            found[name].append(line)
    return found


def test_both_targets_run_unprivileged_without_an_entrypoint() -> None:
    for target in ("cpu", "cuda"):
        instructions = stages()[target]
        assert [line for line in instructions if line.startswith("USER")][-1] == "USER 10001:10001"
        assert not [line for line in instructions if line.startswith("ENTRYPOINT")]
    assert list(stages())[-1] == "cpu"  # what a build without --target makes


def test_targets_differ_in_torch_and_gpu_settings() -> None:
    cpu, cuda = (stages()[target] for target in ("cpu", "cuda"))
    mine = [line.replace("libraries-cpu", "libraries-cuda") for line in cpu]
    assert [line for line in cuda if line not in mine] == [
        "ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility"
    ]
    assert not [line for line in mine if line not in cuda]


def test_torch_and_kfp_have_the_pinned_versions() -> None:
    torch = next(name for name in PROJECT["dependencies"] if name.startswith("torch==")).split("==")[1]
    assert re.findall(r"install\.sh torch===?(\S+)", DOCKERFILE) == [f"{torch}+cpu", torch]
    assert re.findall(r"--no-deps kfp==(\S+)", INSTALL) == [PINS["kfp"]]
    installs = [line for line in (DOCKERFILE + INSTALL).splitlines() if re.search(r"pip install ", line)]
    assert len(installs) == 4
    assert all("-c constraints.txt" in line for line in installs)


def test_the_build_context_is_what_the_dockerfile_copies() -> None:
    first, *rules = (line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#"))
    assert first == "*"
    copied = {
        source
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for source in line.split()[1:-1]
    }
    assert {rule[1:] for rule in rules if rule.startswith("!")} == copied
    assert all((ROOT / source).exists() for source in copied)


def test_the_build_names_no_address() -> None:
    assert "://" not in DOCKERFILE + INSTALL
    assert not re.search(r"index-url|find-links|trusted-host", DOCKERFILE + INSTALL)


def test_telemetry_is_disabled_in_the_image() -> None:
    telling = re.compile(r"TELEMETRY|ANALYTICS|UPDATE|NNCF_CI")
    source = Path(dbrnet.__file__).read_text()
    switches = {name for name in re.findall(r'^    "(\w+)":', source, flags=re.M) if telling.search(name)}
    assert len(switches) == 5
    for name in switches:
        assert f" {name}={os.environ[name]}" in " ".join(stages()["cpu"])


def test_every_imported_library_is_declared() -> None:
    extras = PROJECT["optional-dependencies"]
    requirements = [*PROJECT["dependencies"], *(name for extra in EXTRAS for name in extras[extra])]
    declared = {canonical(re.split(r"[=<>\[ ]", name)[0]) for name in requirements}
    imported = {name.split(".")[0] for file in (ROOT / "dbrnet").rglob("*.py") for name in imports(file)}
    imported -= {"dbrnet", *sys.stdlib_module_names}
    providers = packages_distributions()
    strangers = {name for name in imported if not declared & {canonical(provider) for provider in providers[name]}}
    # botocore and s3transfer come with boto3, starlette with FastAPI, google's protobuf with onnx, rich with NNCF.
    assert strangers <= {"botocore", "s3transfer", "starlette", "google", "rich"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
