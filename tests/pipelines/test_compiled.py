"""The committed YAML: what the code compiles to, sound, and the same graph as dvc.yaml's."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as kubernetes_pb
from kfp.pipeline_spec import pipeline_spec_pb2 as spec_pb
from ruamel.yaml import YAML

import components
from dbrnet.cluster.trainjob import SETTINGS
from dbrnet.config import Params
from dbrnet.errors import UserError
from dbrnet.steps import STAGES
from pipelines.graphs import compile_all, compile_pipeline
from pipelines.resources import SECRET_KEYS, TASK_SPECS

ROOT = Path(__file__).parents[2]
COMPILED = sorted((ROOT / "pipelines/compiled").glob("*.yaml"))
COMPONENTS = sorted((ROOT / "components/compiled").glob("*.yaml"))
ALONE = {"revision", "drift", "notify"}  # no stages: DVC and a person do this on a laptop

Document = dict[str, Any]
VOLUME = [
    {
        "mountPath": "/checkpoints",
        "constant": "dbrnet-checkpoints",
        "pvcNameParameter": {"runtimeValue": {"constant": "dbrnet-checkpoints"}},
    }
]
MEMORY = [{"volumeName": "shared-memory", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "8Gi"}]


def documents(path: Path) -> list[Document]:
    """The pipeline spec and, where there is one, the platform's."""
    return list(YAML(typ="safe").load_all(path.read_text()))


def dags(spec: Document) -> Iterator[Document]:
    """Each graph: the root's, those of the exit handler and the condition."""
    for component in (spec["root"], *spec["components"].values()):
        if "dag" in component:
            yield component


def tasks(spec: Document) -> dict[str, Document]:
    """Every task that runs something, by the step that it runs and, run twice, its number."""
    return {
        name: task
        for component in dags(spec)
        for name, task in component["dag"]["tasks"].items()
        if "dag" not in spec["components"][task["componentRef"]["name"]]
    }


def test_what_is_committed_is_what_the_code_compiles_to(tmp_path: Path) -> None:
    made = {path.relative_to(tmp_path): path.read_text() for path in compile_all(tmp_path)}
    kept = {path.relative_to(ROOT): path.read_text() for path in (*COMPILED, *COMPONENTS)}
    stale = sorted(str(name) for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
    assert not stale, f"run `python -m pipelines compile` and commit: {stale}"


@pytest.mark.parametrize("path", [*COMPILED, *COMPONENTS], ids=lambda path: path.stem)
def test_the_yaml_parses_strictly(path: Path) -> None:
    spec, *platform = documents(path)
    json_format.ParseDict(spec, spec_pb.PipelineSpec())
    for document in platform:
        json_format.ParseDict(document, spec_pb.PlatformSpec())
        executors = document["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
        for settings in executors.values():
            json_format.ParseDict(settings, kubernetes_pb.KubernetesExecutorConfig())
    with pytest.raises(json_format.ParseError):
        json_format.ParseDict(spec | {"rooot": {}}, spec_pb.PipelineSpec())


@pytest.mark.parametrize("path", [*COMPILED, *COMPONENTS], ids=lambda path: path.stem)
def test_every_reference_in_a_graph_exists(path: Path) -> None:
    spec, *platform = documents(path)
    executors = spec["deploymentSpec"]["executors"]
    for component in spec["components"].values():
        assert ("dag" in component) != (component.get("executorLabel") in executors)
    for component in dags(spec):
        dag, inputs = component["dag"]["tasks"], component.get("inputDefinitions", {})
        for task in dag.values():
            called = spec["components"][task["componentRef"]["name"]]
            assert set(task.get("dependentTasks", [])) <= set(dag)
            for kind, word in (("parameters", "Parameter"), ("artifacts", "Artifact")):
                known = called.get("inputDefinitions", {}).get(kind, {})
                given = task.get("inputs", {}).get(kind, {})
                needed = {name for name, one in known.items() if not one.get("isOptional")}
                assert needed <= set(given) <= set(known)
                for value in given.values():
                    if produced := value.get(f"taskOutput{word}"):
                        maker = spec["components"][dag[produced["producerTask"]]["componentRef"]["name"]]
                        assert produced[f"output{word}Key"] in maker["outputDefinitions"][kind]
                    if name := value.get(f"componentInput{word}"):
                        assert name in inputs[kind]
    for document in platform:
        assert set(document["platforms"]["kubernetes"]["deploymentSpec"]["executors"]) <= set(executors)


def edges(spec: Document) -> set[tuple[str, str]]:
    """Which step reads what another wrote. What a graph takes from the one round it is followed there."""
    found = set()
    for component in dags(spec):
        for name, task in component["dag"]["tasks"].items():
            for artifact in task.get("inputs", {}).get("artifacts", {}).values():
                if produced := artifact.get("taskOutputArtifact"):
                    found.add((produced["producerTask"], name))
                else:  # pipelinechannel--TASK-OUTPUT, the compiler's name for what comes from outside
                    outside = artifact["componentInputArtifact"].removeprefix("pipelinechannel--")
                    found.add((outside.rpartition("-")[0], name))
    return {edge for edge in found if edge[1] in tasks(spec)}


def registered_edges() -> set[tuple[str, str]]:
    """The same by the registry: an optional input only where an earlier stage wrote it."""
    writers: dict[str, str] = {}
    found = set()
    for step in STAGES:
        found |= {(writers[name], step.name) for name in (*step.inputs, *step.optional_inputs) if name in writers}
        writers[step.out] = step.name
    return found


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_training_has_the_edges_of_the_registry(variant: str) -> None:
    spec = documents(ROOT / f"pipelines/compiled/training-{variant}.yaml")[0]
    assert set(tasks(spec)) - ALONE == {step.name for step in STAGES}
    assert edges(spec) == registered_edges()


@pytest.mark.parametrize("variant", ["cpu", "gpu"])
def test_retraining_runs_the_stages_only_if_drift_says_yes(variant: str) -> None:
    spec = documents(ROOT / f"pipelines/compiled/retraining-{variant}.yaml")[0]
    question = {("ingest", "drift"), ("fetch-champion", "drift"), ("fetch-champion", "split")}
    second = {
        (a.replace("fetch-champion", "fetch-champion-2"), b.replace("fetch-champion", "fetch-champion-2"))
        for a, b in registered_edges()
    }
    assert edges(spec) == second | question
    asked = next(one for one in dags(spec) if "split" in one["dag"]["tasks"])
    stages = [step.name for step in STAGES[1:]]
    assert set(asked["dag"]["tasks"]) == {"fetch-champion-2", *stages} - {"fetch-champion"}
    [condition] = [
        task["triggerPolicy"]["condition"]
        for one in dags(spec)
        for task in one["dag"]["tasks"].values()
        if "condition" in task.get("triggerPolicy", {})
    ]
    assert condition == "inputs.parameter_values['pipelinechannel--drift-Output'] == 'yes'"
    assert spec["root"]["dag"]["tasks"]["notify"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_parameters_are_the_sections(path: Path) -> None:
    spec = documents(path)[0]
    asked = spec["root"]["inputDefinitions"]["parameters"]
    sections = set(Params.model_fields) - ({"drift"} if path.stem.startswith("training") else set())
    assert set(asked) == sections | {"checkpoints"}
    assert all(one["parameterType"] == "STRING" for one in asked.values())
    assert {name for name, one in asked.items() if one.get("isOptional")} == {"checkpoints"}


@pytest.mark.parametrize("path", COMPILED, ids=lambda path: path.stem)
def test_resources_retries_and_secrets_of_each_task(path: Path) -> None:
    spec, platform = documents(path)
    settings = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, task in tasks(spec).items():
        step = name.removesuffix("-2")
        label = spec["components"][task["componentRef"]["name"]]["executorLabel"]
        container, on_kubernetes = spec["deploymentSpec"]["executors"][label]["container"], settings[label]
        assert re.fullmatch(r"registry\.example/dbrnet@sha256:[0-9a-f]{64}", container["image"])
        assert task.get("cachingOptions", {}).get("enableCache", False) is TASK_SPECS[step].cached
        deadline = int(on_kubernetes["activeDeadlineSeconds"])
        assert deadline == 60 * TASK_SPECS[step].minutes
        _check_retries(task["retryPolicy"], deadline)
        assert container["resources"].keys() >= {"resourceCpuLimit", "resourceMemoryLimit"}
        assert ("accelerator" in container["resources"]) is (path.stem.endswith("gpu") and TASK_SPECS[step].gpu)
        assert on_kubernetes["securityContext"] == {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
        assert on_kubernetes["podMetadata"]["labels"] == {  # by which network policies know it
            "app.kubernetes.io/part-of": "dbrnet",
            "app.kubernetes.io/component": step,
        }
        given = {
            one["secretName"]: {pair["envVar"] for pair in one["keyToEnv"]}
            for one in on_kubernetes.get("secretAsEnv", [])
        }
        assert given == {secret: set(SECRET_KEYS[secret]) for secret in TASK_SPECS[step].secrets}
        if given:
            addresses = [pair["envVar"] for one in on_kubernetes["configMapAsEnv"] for pair in one["keyToEnv"]]
            assert addresses == [*SETTINGS["dbrnet"], *(["DBRNET_STAGING"] if step == "train" else [])]
        assert on_kubernetes.get("pvcMount") == (VOLUME if step == "train" else None)
        assert on_kubernetes.get("emptyDirMounts") == (MEMORY if step == "train" else None)
        given = {one["name"]: one["value"] for one in container.get("env", [])}
        assert given.get("DBRNET_IMAGE") == (container["image"] if step == "train" else None)


def _check_retries(policy: Document, deadline: int) -> None:
    """Argo counts backoffMaxDuration from the first try's start: every try must find its time in it."""
    retries, pause = policy["maxRetryCount"], int(policy["backoffDuration"].removesuffix("s"))
    assert retries >= 1
    assert (pause, policy["backoffFactor"]) == (60, 2)  # whole: the backend takes no other
    pauses = sum(pause * 2**number for number in range(retries))
    assert pauses > 60  # a minute's outage is survived
    assert int(policy["backoffMaxDuration"].removesuffix("s")) > (retries + 1) * deadline + pauses


def test_only_promotion_can_promote_and_it_is_never_cached() -> None:
    assert {step for step, needs in TASK_SPECS.items() if "dbrnet-promoter" in needs.secrets} == {"promote"}
    assert {step for step, needs in TASK_SPECS.items() if needs.cached} == {"ingest", "split", "train", "export"}
    assert set(TASK_SPECS) == {name.replace("_", "-") for name in components.__all__}


@pytest.mark.parametrize(
    "image", ["dbrnet", "registry.example/dbrnet:1.2", "dbrnet@sha256:12", "a b@sha256:" + 64 * "0"]
)
def test_an_image_without_its_digest_is_refused(image: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be named by its digest"):
        compile_pipeline("training", gpu=False, image=image, path=tmp_path / "training.yaml")
    assert not list(tmp_path.iterdir())
