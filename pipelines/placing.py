"""How each task runs on a cluster: its image, resources, time, retries, secrets, and whether it is cached."""

from collections.abc import Callable
from dataclasses import dataclass, field

from kfp import kubernetes
from kfp.dsl import PipelineTask

Place = Callable[[PipelineTask, str], PipelineTask]  # puts the task of a step where it belongs

USER = 10001  # the image's
CHECKPOINTS = "/checkpoints"  # where the volume of that name is mounted

# What the cluster has to hold, by name; docs/cluster.md tells how it comes there.
SETTINGS = "dbrnet"
SETTINGS_KEYS = ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL", "AWS_DEFAULT_REGION")
S3, TRAINER, PROMOTER, NOTIFY = "dbrnet-s3", "dbrnet-trainer", "dbrnet-promoter", "dbrnet-notify"
_MLFLOW_KEYS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
SECRET_KEYS = {
    S3: ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
    TRAINER: _MLFLOW_KEYS,
    PROMOTER: _MLFLOW_KEYS,
    NOTIFY: ("DBRNET_NOTIFY_URL",),
}
VOLUME = "dbrnet-checkpoints"


@dataclass(frozen=True)
class Needs:
    """What a step's task is given."""

    cpu: str
    memory: str
    minutes: int  # then its pod is ended, and the task tried again
    secrets: tuple[str, ...] = ()
    retries: int = 2
    cached: bool = False  # safe where the inputs alone decide the outputs
    gpu: bool = False  # in the GPU variant
    environment: dict[str, str] = field(default_factory=dict)


NEEDS = {
    "revision": Needs("1", "1G", 10, (S3,)),
    "ingest": Needs("2", "4G", 180, (S3,), cached=True),
    "split": Needs("4", "8G", 120, cached=True),
    "train": Needs("8", "32G", 48 * 60, (TRAINER,), retries=3, cached=True, gpu=True),
    "export": Needs("4", "8G", 60, cached=True),
    "champion": Needs("1", "2G", 10, (TRAINER,)),
    "evaluate": Needs("4", "8G", 120, cached=True, gpu=True),
    "benchmark": Needs("4", "8G", 60, gpu=True),
    "promote": Needs("2", "4G", 30, (PROMOTER,)),
    "drift": Needs("2", "4G", 60),
    "notify": Needs("1", "1G", 10, (TRAINER, NOTIFY)),
}


def here(task: PipelineTask, step: str) -> PipelineTask:
    """Places a task on this machine: what failed is tried again at once."""
    return task.set_display_name(step).set_retry(NEEDS[step].retries, backoff_duration="1s", backoff_factor=1)


def on_cluster(image: str, *, gpu: bool) -> Place:
    """Places tasks on a cluster, in `image`; in the GPU variant those that can use one get one."""

    def place(task: PipelineTask, step: str) -> PipelineTask:
        needs = NEEDS[step]
        task.set_display_name(step).set_container_image(image)
        task.set_cpu_request(needs.cpu).set_cpu_limit(needs.cpu)
        task.set_memory_request(needs.memory).set_memory_limit(needs.memory)
        if gpu and needs.gpu:
            task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
        task.set_caching_options(needs.cached)
        task.set_retry(needs.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration="900s")
        kubernetes.set_timeout(task, 60 * needs.minutes)
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
        kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "dbrnet")
        kubernetes.add_pod_label(task, "app.kubernetes.io/component", step)
        _give_settings(task, needs)
        if step == "train":
            kubernetes.mount_pvc(task, VOLUME, CHECKPOINTS)
            # PyTorch's loading processes hand pictures over through shared memory; a pod has 64 MB of it.
            kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit="8Gi")  # noqa: S108
        return task

    return place


def _give_settings(task: PipelineTask, needs: Needs) -> None:
    """Addresses from the ConfigMap, credentials from those secrets alone that the step needs."""
    if not needs.secrets:
        return
    kubernetes.use_config_map_as_env(task, SETTINGS, {key: key for key in SETTINGS_KEYS}, optional=True)
    for secret in needs.secrets:
        keys = {key: key for key in SECRET_KEYS[secret]}
        kubernetes.use_secret_as_env(task, secret, keys, optional=secret == NOTIFY)
