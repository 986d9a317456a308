"""The TrainJob (Kubeflow Trainer, schema v2.3.0) that trains on several nodes, as a Kubernetes object.

Kubeflow's runtime `torch-distributed` starts one pod per node. Its PET_* variables give torchrun the numbers
of nodes and processes, the rank of the node and the address of the first one.
"""

from dataclasses import dataclass
from typing import Any

GROUP, VERSION, PLURAL = "trainer.kubeflow.org", "v1alpha1", "trainjobs"
RUNTIME = "torch-distributed"
NODE = "node"  # that runtime's name for its replicated job and the container in it
DEADLINE_HOURS = 48
CHECKPOINTS = "/checkpoints"
USER = 10001  # the image's

# Resources per process, besides accelerators.
CPU, MEMORY_GIB = 8, 32

SETTINGS = {"dbrnet": ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")}  # ConfigMap: keys
SECRETS = {
    "dbrnet-s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    "dbrnet-trainer": ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"),
}
VOLUMES: dict[str, tuple[str, dict[str, Any]]] = {  # name: where it is mounted, what it is
    "checkpoints": (CHECKPOINTS, {"persistentVolumeClaim": {"claimName": "dbrnet-checkpoints"}}),
    "shared-memory": ("/dev/shm", {"emptyDir": {"medium": "Memory", "sizeLimit": "8Gi"}}),  # noqa: S108
    "tmp": ("/tmp", {"emptyDir": {}}),  # noqa: S108  (the root file system is read-only)
}


@dataclass(frozen=True)
class Nodes:
    """The nodes that a training runs on, and their image."""

    count: int
    processes: int  # per node; each has one accelerator, if any
    image: str  # by digest
    accelerator: str = ""  # the resource's name, such as nvidia.com/gpu; empty: train on CPUs


def render(name: str, job_spec: str, nodes: Nodes, environment: dict[str, str]) -> dict[str, Any]:
    """The TrainJob `name`: each process runs `dbrnet worker JOB_SPEC`, with `environment` besides its own."""
    amounts = {"cpu": str(CPU * nodes.processes), "memory": f"{MEMORY_GIB * nodes.processes}Gi"}
    if nodes.accelerator:
        amounts[nodes.accelerator] = str(nodes.processes)
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "TrainJob",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/part-of": "dbrnet"}},
        "spec": {
            "runtimeRef": {"apiGroup": GROUP, "kind": "ClusterTrainingRuntime", "name": RUNTIME},
            "activeDeadlineSeconds": DEADLINE_HOURS * 3600,
            "trainer": {
                "image": nodes.image,
                "numNodes": nodes.count,
                "numProcPerNode": nodes.processes,
                "command": ["torchrun", "-m", "dbrnet", "worker", job_spec, "--checkpoints", CHECKPOINTS],
                "env": _environment(environment),
                "resourcesPerNode": {"requests": amounts, "limits": amounts},
            },
            "runtimePatches": [
                {
                    "manager": "dbrnet.train/component",
                    "trainingRuntimeSpec": {
                        "template": {"spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": _pod_patch()}}]}}
                    },
                }
            ],
        },
    }


def _pod_patch() -> dict[str, Any]:
    labels = {
        "app.kubernetes.io/part-of": "dbrnet",
        "app.kubernetes.io/component": "train",
        "sidecar.istio.io/inject": "false",  # a mesh would block the nodes' connections and keep pods alive
    }
    locked = {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "readOnlyRootFilesystem": True,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = [{"name": name, "mountPath": path} for name, (path, _) in VOLUMES.items()]
    pod = {
        "securityContext": {"fsGroup": USER},  # may write to the volumes
        "volumes": [{"name": name, **kind} for name, (_, kind) in VOLUMES.items()],
        "containers": [{"name": NODE, "securityContext": locked, "volumeMounts": mounts}],
    }
    return {"template": {"metadata": {"labels": labels}, "spec": pod}}


def _environment(values: dict[str, str]) -> list[dict[str, Any]]:
    """`values`, and references to the addresses and credentials that a task on a single node has too."""
    entries: list[dict[str, Any]] = [{"name": key, "value": value} for key, value in values.items()]
    for kind, sources, optional in (("configMapKeyRef", SETTINGS, True), ("secretKeyRef", SECRETS, False)):
        for name, keys in sources.items():
            for key in keys:
                reference = {kind: {"name": name, "key": key, "optional": optional}}
                entries.append({"name": key, "valueFrom": reference})
    return entries
