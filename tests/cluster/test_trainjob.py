"""The rendered TrainJob against the models of kubeflow-trainer-api 2.3, and its CRD's bounds."""

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
def test_the_job_fits_the_schema(nodes: Nodes) -> None:
    strictly(rendered(nodes))


TRAINER, PATCH = "spec.trainer", "spec.runtimePatches.0"
POD = f"{PATCH}.trainingRuntimeSpec.template.spec.replicatedJobs.0.template.spec.template.spec"


@pytest.mark.parametrize(
    ("path", "key", "value"),
    [
        ("spec", "unknown", "x"),
        (TRAINER, "unknown", "x"),
        (f"{TRAINER}.env.0", "unknown", "x"),
        (f"{TRAINER}.env.1.valueFrom.configMapKeyRef", "unknown", "x"),
        (POD, "unknown", "x"),
        (f"{POD}.volumes.1.emptyDir", "unknown", "x"),
        ("metadata", "name", "Dbrnet"),
        ("metadata", "name", "d" * 64),
        (TRAINER, "image", "i" * 501),
        (TRAINER, "numNodes", "3"),
        (TRAINER, "numProcPerNode", 0),
        (TRAINER, "env", [{"name": "MLFLOW_RUN_ID"}, {"name": "MLFLOW_RUN_ID"}]),
        (TRAINER, "env", [{"name": "PET_NNODES", "value": "2"}]),
        (PATCH, "manager", "dbrnet"),
        (f"{POD}.containers.0", "volumeMounts", 2 * [{"name": "tmp", "mountPath": "/tmp"}]),
        (f"{POD}.containers.0", "env", [{"name": "A", "value": "b"}]),
    ],
)
def test_the_check_finds_what_an_api_server_refuses(path: str, key: str, value: Any) -> None:
    job = copy.deepcopy(rendered())  # the limits and the requests are one object
    place: Any = job
    for word in path.split("."):
        place = place[int(word) if word.isdigit() else word]
    place[key] = value
    with pytest.raises((AssertionError, ValidationError)):
        strictly(job)


def test_command_and_resources_of_the_nodes() -> None:
    spec = rendered()["spec"]
    trainer = spec["trainer"]
    assert spec["runtimeRef"]["name"] == "torch-distributed"
    assert (trainer["numNodes"], trainer["numProcPerNode"], trainer["image"]) == (3, 2, IMAGE)
    command = " ".join(trainer["command"])
    assert command == "torchrun -m dbrnet worker s3://steel/jobs/x/ --checkpoints /checkpoints"
    assert trainer["resourcesPerNode"]["limits"] == {"cpu": "16", "memory": "64Gi", "nvidia.com/gpu": "2"}
    assert "nvidia.com/gpu" not in rendered(Nodes(2, 1, IMAGE))["spec"]["trainer"]["resourcesPerNode"]["limits"]


def test_names_of_the_runtimes_job_and_container() -> None:
    """Its job and container are named node; a patch of another name would be refused."""
    patch = rendered()["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]
    (job,) = patch["replicatedJobs"]
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["name"], container["name"]) == ("node", "node")
    assert {one["name"] for one in container["volumeMounts"]} == {one["name"] for one in pod["volumes"]}


def test_credentials_are_references_and_launcher_variables_are_free() -> None:
    entries = {entry["name"]: entry for entry in rendered()["spec"]["trainer"]["env"]}
    assert [name for name, entry in entries.items() if "value" in entry] == ["MLFLOW_RUN_ID"]
    secret = entries["AWS_SECRET_ACCESS_KEY"]["valueFrom"]["secretKeyRef"]
    assert (secret["name"], secret["key"]) == ("dbrnet-s3", "AWS_SECRET_ACCESS_KEY")
    assert not [name for name in entries if re.match("PET_|MASTER_|WORLD_SIZE|RANK", name)]
