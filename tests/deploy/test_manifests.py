"""The manifests render, validate strictly, hold to the house's rules, and name nothing that is not there."""

import copy
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dbrnet.cluster.trainjob import Nodes
from dbrnet.cluster.trainjob import render as render_trainjob
from tests.deploy.manifests import DEPLOY, OVERLAYS, Object, Pod, named, overlay, pod, pods, render

kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")

VERSION = "1.37"
PAGE = (DEPLOY.parent / "docs" / "cluster.md").read_text()
ELSEWHERE = {  # pods that others make, which a policy may name
    "app.kubernetes.io/part-of": "dbrnet",  # pipelines.resources, cluster.trainjob
    "app.kubernetes.io/component": "train",
    "k8s-app": "kube-dns",
}
KIND_OF_REFERENCE = {
    "secretKeyRef": ("Secret", "name"),
    "secretRef": ("Secret", "name"),
    "configMapRef": ("ConfigMap", "name"),
    "configMap": ("ConfigMap", "name"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
}
CASES = [pytest.param(name, each.owner, id=f"{name}-{each.owner}") for name in OVERLAYS for each in pods(overlay(name))]


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_object_validates_strictly(name: str) -> None:
    assert len(overlay(name)) > 20
    for each in overlay(name):
        kubernetes_validate.validate(each, VERSION, strict=True)


def test_an_unknown_field_is_found() -> None:
    broken = copy.deepcopy(named(overlay("demo"), "Deployment", "mlflow"))
    broken["spec"]["template"]["spec"]["containers"][0]["redinessProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


@pytest.mark.parametrize(("name", "owner"), CASES)
def test_every_container_is_bounded_and_unprivileged(name: str, owner: str) -> None:
    of = pod(overlay(name), owner)
    container, security = of.container, of.spec["securityContext"]
    assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
    assert set(container["resources"]["requests"]) == {"cpu", "memory"}
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert re.fullmatch(r"[\w./-]+@sha256:[0-9a-f]{64}", container["image"])
    assert not of.spec.get("initContainers")


@pytest.mark.parametrize(("name", "owner"), CASES)
def test_only_pods_that_use_the_api_have_a_token(name: str, owner: str) -> None:
    of = pod(overlay(name), owner)
    assert of.spec.get("automountServiceAccountToken", True) is ("serviceAccountName" in of.spec)
    assert ("serviceAccountName" in of.spec) is (owner == "champion")


@pytest.mark.parametrize(("name", "owner"), CASES)
def test_probes_use_the_containers_ports(name: str, owner: str) -> None:
    container = pod(overlay(name), owner).container
    ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
    kinds = ("startupProbe", "readinessProbe", "livenessProbe")
    probes = [container[kind] for kind in kinds if kind in container]
    assert len(probes) == (3 if ports else 0)
    for probe in probes:
        assert "exec" in probe or probe["httpGet"]["port"] in ports


@pytest.mark.parametrize("name", OVERLAYS)
def test_services_target_ports_of_pods(name: str) -> None:
    services = [each for each in overlay(name) if each["kind"] == "Service"]
    assert services
    for service in services:
        (behind,) = selected(name, service["spec"]["selector"])
        named_ports = {port["name"] for port in behind.container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named_ports


def references(node: Any) -> Iterator[tuple[str, str]]:
    """Whatever a pod's spec refers to, as kind and name."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in KIND_OF_REFERENCE and isinstance(value, dict):
                kind, field = KIND_OF_REFERENCE[key]
                yield kind, value[field]
            elif key == "serviceAccountName":
                yield "ServiceAccount", value
            yield from references(value)
    elif isinstance(node, list):
        for each in node:
            yield from references(each)


@pytest.mark.parametrize(("name", "owner"), CASES)
def test_references_of_pods_exist_or_are_documented(name: str, owner: str) -> None:
    of = pod(overlay(name), owner)
    there = {
        (each["kind"], each["metadata"]["name"])
        for each in overlay(name)
        if each["metadata"].get("namespace") == of.namespace
    }
    for kind, what in references(of.spec):
        if kind == "Secret":
            assert re.search(rf"-n dbrnet create secret generic {what} ", PAGE), what
        else:
            assert (kind, what) in there


def test_manifests_hold_no_secrets() -> None:
    for name in OVERLAYS:
        assert "Secret" not in {each["kind"] for each in overlay(name)}


def test_the_docs_create_the_pipelines_secrets() -> None:
    for secret in ("dbrnet-s3", "dbrnet-trainer", "dbrnet-promoter", "dbrnet-notify"):
        assert re.search(rf'-n "?\$PROFILE"? create secret generic {secret} ', PAGE), secret


def selected(name: str, labels: dict[str, str]) -> list[Pod]:
    return [each for each in pods(overlay(name)) if labels.items() <= each.labels.items()]


def peers(policy: Object) -> Iterator[Object]:
    for rules, key in ((policy["spec"].get("ingress", []), "from"), (policy["spec"].get("egress", []), "to")):
        for rule in rules:
            yield from rule.get(key, [])


def may(name: str, direction: str, of: Pod) -> list[tuple[Object, set[int]]]:
    """What policies let the pod do: peers (empty: anywhere) and ports."""
    key, found = {"ingress": "from", "egress": "to"}[direction], []
    for policy in (each for each in overlay(name) if each["kind"] == "NetworkPolicy"):
        chosen = policy["spec"]["podSelector"].get("matchLabels", {}).items() <= of.labels.items()
        if chosen and policy["metadata"]["namespace"] == of.namespace:
            for rule in policy["spec"].get(direction, []):
                ports = {port["port"] for port in rule["ports"]}
                found += [(peer, ports) for peer in rule.get(key, [{}])]
    return found


@pytest.mark.parametrize("name", OVERLAYS)
def test_policies_name_pods_that_exist(name: str) -> None:
    policies = [each for each in overlay(name) if each["kind"] == "NetworkPolicy"]
    denial = named(overlay(name), "NetworkPolicy", "nothing-else")
    assert denial["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for policy in policies:
        labels = policy["spec"]["podSelector"].get("matchLabels", {})
        if labels and not labels.items() <= ELSEWHERE.items():
            assert selected(name, labels), policy["metadata"]["name"]
        for peer in peers(policy):
            labels = peer.get("podSelector", {}).get("matchLabels", {})
            if not labels.items() <= ELSEWHERE.items():
                assert selected(name, labels), labels


@pytest.mark.parametrize("name", OVERLAYS)
def test_network_policies_allow_only_the_needed_connections(name: str) -> None:
    def by_name(peer: Object) -> str:
        labels = {
            label: value
            for selector in ("namespaceSelector", "podSelector")
            for label, value in peer.get(selector, {}).get("matchLabels", {}).items()
        }
        return str(labels.get("app.kubernetes.io/name") or labels["kubernetes.io/metadata.name"])

    def who(direction: str, owner: str, port: int) -> set[str]:
        found = may(name, direction, pod(overlay(name), owner))
        return {by_name(peer) for peer, ports in found if port in ports}

    profile = named(overlay(name), "PersistentVolumeClaim", "dbrnet-checkpoints", "factory")
    assert who("ingress", "mlflow", 5000) == {profile["metadata"]["namespace"], "inference", "champion"}
    assert who("ingress", "postgres", 5432) == {"mlflow"}
    assert who("ingress", "inference", 8080) == {"istio-system"}
    assert not may(name, "ingress", pod(overlay(name), "champion"))
    for owner in ("inference", "champion"):
        assert who("egress", owner, 5000) == {"mlflow"}
    assert who("egress", "mlflow", 5432) == {"postgres"}
    outward = may(name, "egress", pod(overlay(name), "postgres"))
    assert [ports for _, ports in outward] == [{53}]


@pytest.mark.parametrize("name", OVERLAYS)
def test_only_a_trainings_nodes_reach_each_other(name: str) -> None:
    denial = named(overlay(name), "NetworkPolicy", "dbrnet-tasks", "factory")["spec"]
    task = {"app.kubernetes.io/part-of": "dbrnet"}
    assert denial == {"podSelector": {"matchLabels": task}, "policyTypes": ["Ingress"]}
    policy = named(overlay(name), "NetworkPolicy", "dbrnet-nodes", "factory")["spec"]
    (patch,) = render_trainjob("x", "s3://x/", Nodes(2, 1, "image"), {})["spec"]["runtimePatches"]
    (job,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    labels = job["template"]["spec"]["template"]["metadata"]["labels"]
    nodes = task | {"app.kubernetes.io/component": "train"}
    assert nodes.items() <= labels.items()
    assert policy["podSelector"]["matchLabels"] == nodes
    (rule,) = policy["ingress"]
    (peer,) = rule["from"]
    assert "ports" not in rule
    assert peer == {"podSelector": {"matchLabels": nodes}}  # of the same namespace


def test_the_profiles_namespace_is_written_once(tmp_path: Path) -> None:
    """Another name in profile/kustomization.yaml reaches the policies that let its pods in."""
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    file = tmp_path / "deploy" / "profile" / "kustomization.yaml"
    file.write_text(file.read_text().replace("namespace: factory", "namespace: press-shop"))
    for name in OVERLAYS:
        text = str(render(tmp_path / "deploy" / "overlays" / name))
        assert "press-shop" in text
        assert "'factory'" not in text
        assert "PROFILE" not in text


def test_the_roll_out_may_patch_one_deployment() -> None:
    role = named(overlay("demo"), "Role", "champion")
    assert role["rules"] == [
        {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["inference"], "verbs": ["patch"]}
    ]
    assert pod(overlay("demo"), "champion").container["args"] == ["$(MODEL)", "inference"]
