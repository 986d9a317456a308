"""The rendered TrainJob against Kubeflow Trainer's own models (kubeflow-trainer-api, schema v2.3.0)."""

import copy
import re
from typing import Any

import pytest
from pydantic import ValidationError

from dbrnet.cluster.trainjob import Nodes, render
from tests.cluster.conftest import IMAGE
from tests.cluster.kubernetes_stub import strictly

GPU = Nodes(3, 2, IMAGE, "nvidia.com/gpu")


def rendered(nodes: Nodes = GPU) -> dict[str, Any]:
    return render("dbrnet-0123456789abcdef", "s3://steel/jobs/x/", nodes, {"MLFLOW_RUN_ID": "4d5e"})


@pytest.mark.parametrize("nodes", [GPU, Nodes(2, 1, IMAGE)])
def test_the_schema_takes_it(nodes: Nodes) -> None:
    strictly(rendered(nodes))


@pytest.mark.parametrize(
    "path",
    [
        "spec",
        "spec.trainer",
        "spec.trainer.env.0",
        "spec.trainer.env.1.valueFrom.configMapKeyRef",
        "spec.runtimePatches.0.trainingRuntimeSpec.template.spec.replicatedJobs.0.template.spec.template.spec",
        "spec.runtimePatches.0.trainingRuntimeSpec.template.spec.replicatedJobs.0.template.spec.template.spec"
        ".volumes.1.emptyDir",
    ],
)
def test_an_unknown_field_is_seen(path: str) -> None:
    job = copy.deepcopy(rendered())
    place: Any = job
    for key in path.split("."):
        place = place[int(key) if key.isdigit() else key]
    place["unknown"] = "x"
    with pytest.raises(AssertionError):
        strictly(job)


def test_an_ill_typed_field_is_seen() -> None:
    job = rendered()
    job["spec"]["trainer"]["numNodes"] = "3"
    with pytest.raises(ValidationError, match="numNodes"):
        strictly(job)


def test_what_the_nodes_run() -> None:
    spec = rendered()["spec"]
    trainer = spec["trainer"]
    assert spec["runtimeRef"]["name"] == "torch-distributed"
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (3, 2, IMAGE)
    assert trainer["command"] == [
        "torchrun", "-m", "dbrnet", "node", "s3://steel/jobs/x/", "--checkpoints", "/checkpoints"
    ]  # fmt: skip
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert (
        "nvidia.com/gpu" not in rendered(Nodes(2, 1, IMAGE))["spec"]["trainer"]["resourcesPerNode"]["limits"]
    )


def test_credentials_go_by_reference_and_the_launchers_variables_are_left_alone() -> None:
    entries = {entry["name"]: entry for entry in rendered()["spec"]["trainer"]["env"]}
    assert [name for name, entry in entries.items() if "value" in entry] == ["MLFLOW_RUN_ID"]
    secret = entries["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
    assert (secret["name"], secret["key"]) == ("dbrnet-s3", "AWS_SECRET_ACCESS_KEY")
    assert not [name for name in entries if re.match("PET_|MASTER_|WORLD_SIZE|RANK", name)]  # Trainer refuses


def test_what_the_schemas_rules_in_words_ask_for() -> None:
    job = rendered()
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", job["metadata"]["name"])
    assert len(job["metadata"]["name"]) <= 63
    pod = job["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"][0]
    (container,) = pod["template"]["spec"]["template"]["spec"]["containers"]
    assert (pod["name"], container["name"]) == ("node", "node")
    assert "env" not in container  # for the container `node` it goes through spec.trainer alone
    volumes = {volume["name"] for volume in pod["template"]["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes
