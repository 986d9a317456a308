"""`make image-check`: build the CPU image without a Docker engine, and run the whole demo in it.

Each step runs in a container of its own, as in Kubeflow: with the network off, another user than root, and
nothing to write to but /tmp and the working directory. Needs root, and Debian's buildah, podman, runc and
debootstrap.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dbrnet.steps import BY_NAME, STAGES

ROOT = Path(__file__).parents[2]
BASE = "localhost/dbrnet-check-base"
IMAGE = "localhost/dbrnet:cpu"
PROGRAMS = ("buildah", "podman", "runc", "debootstrap")
USER = 10001
COMPONENTS = ("revision", *(step.name for step in STAGES), "drift", "notify")
LIMITS = "--ulimit nofile=1024:1024 --ulimit nproc=1024:1024"  # a sandbox may not raise its own


def main() -> None:
    """Build, look, and run the demo; ends with the image's size."""
    if missing := [name for name in PROGRAMS if not shutil.which(name)]:
        sys.exit(f"the check of the image needs {', '.join(missing)}: apt-get install {' '.join(PROGRAMS)}")
    os.environ["BUILDAH_ISOLATION"] = "chroot"
    started = time.monotonic()
    make_base()
    build()
    built = time.monotonic()
    inspect()
    with workspace() as folder:
        look_inside(folder)
        run_demo(folder)
        print((folder / "kubeflow/promote/decision/summary.txt").read_text())
    megabytes = int(_output("podman", "image", "inspect", "--format", "{{.Size}}", IMAGE)) / 1e6
    base = int(_output("podman", "image", "inspect", "--format", "{{.Size}}", BASE)) / 1e6
    print(
        f"image  {megabytes:.0f} MB, of which {base:.0f} are the base; built in {built - started:.0f} s, "
        f"run in {time.monotonic() - built:.0f} s"
    )


def make_base() -> None:
    """Debian's own Python stands in for python:3.11-slim-bookworm, which a registry would serve."""
    if subprocess.run(["podman", "image", "exists", BASE]).returncode == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        packages = "--include=ca-certificates,python3,python3-venv"
        _run("debootstrap", "--variant=minbase", packages, "bookworm", folder)
        for waste in ("var/cache/apt", "var/lib/apt/lists"):
            shutil.rmtree(Path(folder, waste))
        container = _output("buildah", "from", "scratch")
        _run("buildah", "add", "--quiet", container, folder, "/")
        _run("buildah", "commit", "--quiet", "--rm", container, BASE)


def build() -> None:
    """`make image`, with this machine's configuration of pip, and the folders that it names mounted."""
    listed = _output(sys.executable, "-m", "pip", "config", "list").splitlines()
    settings: dict[str, list[str]] = {}
    for line in listed:
        name, _, value = line.partition("=")
        settings.setdefault(name.rpartition(".")[2], []).extend(value.strip("'").split())
    folders: set[Path] = set()
    for value in (value for values in settings.values() for value in values):
        path = Path(value.removeprefix("file://"))
        if path.is_absolute() and path.exists():  # an index's files lie beside it, others in the folder named
            folders.add(path if path.is_dir() and path == Path(value) else path.parent)
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder, "pip.conf")
        lines = [f"{name} = {' '.join(dict.fromkeys(values))}" for name, values in settings.items()]
        configuration.write_text("\n".join(["[global]", *lines, ""]))
        volumes = " ".join(f"--volume {path}:{path}:ro" for path in sorted(folders))
        _run(
            "make",
            "image",
            "ENGINE=buildah",
            f"BASE={BASE}",
            f"PIP_CONF={configuration}",
            f"IMAGE_FLAGS=--layers {volumes}",
        )


def inspect() -> None:
    """What a cluster relies on is written in the image."""
    image = json.loads(_output("podman", "image", "inspect", IMAGE))[0]
    config = image["Config"]
    environment = dict(line.split("=", 1) for line in config["Env"])
    revision = config["Labels"]["org.opencontainers.image.revision"]
    assert config["User"] == f"{USER}:{USER}", config["User"]
    assert not config.get("Entrypoint"), config["Entrypoint"]
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", revision), revision
    assert environment["DBRNET_REVISION"] == revision
    secret = re.compile(r"token|password|secret|://", re.I)
    assert not [line for line in config["Env"] if secret.search(line)], config["Env"]
    history = " ".join(str(layer.get("created_by")) for layer in image["History"])
    assert "://" not in history, history


@contextmanager
def workspace() -> Iterator[Path]:
    """The working directory: a checkout's parameters, and where data and artifacts will be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copy(ROOT / "params.yaml", folder)
        for path in (folder, folder / "params.yaml"):
            os.chown(path, USER, USER)
        yield folder


def look_inside(folder: Path) -> None:
    """The libraries are the pinned ones, their list is complete, and nothing is there that no step uses."""
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    pinned = {_canonical(name): version for name, version in pins.items()} | {"torch": "2.13.0+cpu"}
    program = "from importlib.metadata import *; print(*(f'{d.name}=={d.version}' for d in distributions()))"
    words = in_container(folder, "python3", "-c", program).split()
    installed = {_canonical(name): version for name, _, version in (word.partition("==") for word in words)}
    installed.pop("dbrnet")
    strangers = {name: version for name, version in installed.items() if pinned.get(name) != version}
    assert not strangers, f"not as constraints.txt pins them: {strangers}"
    listed = json.loads(in_container(folder, "cat", "/opt/venv/sbom.cdx.json"))["components"]
    assert {_canonical(part["name"]): part["version"] for part in listed} == installed
    unused = {"dvc", "pytest", "mypy", "mlflow", "pip", "kfp-server-api"} & set(installed)
    assert not unused, f"no step uses {unused}"
    assert in_container(folder, "sh", "-c", "cat /etc/pip.conf 2> /dev/null; find /opt -name pip.conf") == ""
    assert in_container(folder, "id", "--user").strip() == str(USER)
    for path in ("/opt/venv/written", "/etc/written", "/written"):
        script = f"touch {path} 2> /dev/null && echo written || true"
        assert in_container(folder, "sh", "-c", script) == "", path


def run_demo(folder: Path) -> None:
    """Generate the images, then run every compiled component by its command, as Kubeflow does."""
    in_container(folder, "dbrnet", "generate", "--out", "data/steel-strip")
    made: dict[str, str] = {}  # where the artifacts lie, by their names
    for component in COMPONENTS:
        begun = time.monotonic()
        in_container(folder, *kubeflow_command(folder, component, made))
        print(f"{component:9}  {time.monotonic() - begun:6.1f} s", flush=True)
    decision = json.loads((folder / made["decision"] / "decision.json").read_text())
    assert decision["answer"] == "promoted", decision["reasons"]
    for page in ("split/report", "evaluate/report", "promote/review", "promote/card"):
        assert (folder / "kubeflow" / page).stat().st_size > 0, page
    assert "warranted? yes" in (folder / made["reasons"]).read_text()  # there was no champion before this one


def kubeflow_command(folder: Path, name: str, made: dict[str, str]) -> list[str]:
    """The compiled component's command with its inputs; where its outputs will lie is added to `made`."""
    identifier = name.replace("-", "_")
    spec = YAML(typ="safe").load(ROOT / f"components/compiled/{identifier}.yaml")
    container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
    definitions = spec["components"][f"comp-{name}"]
    asked, promised = (definitions.get(key, {}) for key in ("inputDefinitions", "outputDefinitions"))
    sections = YAML(typ="safe").load(folder / "params.yaml")
    values = {
        "params": json.dumps(sections[BY_NAME[name].section]),
        "revision": "r1",
        "checkpoints": "/workspace/checkpoints",
        "pipeline": "in the image",
        "status": {"state": "SUCCEEDED", "pipelineJobResourceName": "", "pipelineTaskName": "", "error": {}},
    }

    def artifacts(definitions: dict[str, Any]) -> dict[str, Any]:
        """Those that there are, where they lie: an input may be optional."""
        return {
            key: {"artifacts": [{"name": key, "type": one["artifactType"], "uri": f"/workspace/{made[key]}"}]}
            for key, one in definitions.get("artifacts", {}).items()
            if key in made
        }

    inputs = artifacts(asked)
    made |= {key: f"kubeflow/{name}/{key}" for key in promised.get("artifacts", {})}
    given = {
        "inputs": {"parameterValues": {key: values[key] for key in asked.get("parameters", {})}, "artifacts": inputs},
        "outputs": {
            "parameters": {key: {"outputFile": f"/tmp/{key}"} for key in promised.get("parameters", {})},
            "artifacts": artifacts(promised),
            "outputFile": "/tmp/outputs.json",
        },
    }
    words: list[str] = [*container["command"], *container["args"]]
    return [json.dumps(given) if word == "{{$}}" else word for word in words]


def in_container(folder: Path, *command: str) -> str:
    """Run `command` as a pod would; what it printed on standard output."""
    run = f"podman --runtime runc run --rm --network none {LIMITS} --cap-drop all --security-opt no-new-privileges"
    files = f"--read-only --read-only-tmpfs=false --tmpfs /tmp:rw,mode=1777 --volume {folder}:/workspace"
    return _output(*f"{run} {files} --shm-size 256m {IMAGE}".split(), *command)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _run(*command: str) -> None:
    if status := subprocess.run(command, cwd=ROOT).returncode:
        sys.exit(f"exit status {status}: {shlex.join(command)[:300]}")


def _output(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"exit status {done.returncode}: {shlex.join(command)[:300]}\n{done.stdout}")
    return done.stdout.strip()


if __name__ == "__main__":
    main()
