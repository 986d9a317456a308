"""How each task runs on a cluster: its image, resources, time, retries, secrets, and whether it is cached."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kfp import kubernetes
from kfp.dsl import PipelineTask

from dbrnet.cluster.trainjob import SECRETS, SETTINGS, USER, VOLUMES

Place = Callable[[PipelineTask, str], PipelineTask]  # puts the task of a step where it belongs

# What the cluster has to hold, by name; docs/cluster.md tells how it comes there. Training on several nodes
# is given the same.
S3, TRAINER = SECRETS
PROMOTER, NOTIFY = "dbrnet-promoter", "dbrnet-notify"
SECRET_KEYS = SECRETS | {PROMOTER: SECRETS[TRAINER], NOTIFY: ("DBRNET_NOTIFY_URL",)}
EXCHANGE = "DBRNET_STAGING"  # where in S3 several nodes find what they train on
GPU = "nvidia.com/gpu"
WAITING_MINUTES = 24 * 60  # that each try may wait for a place in the cluster, pauses included


@dataclass(frozen=True)
class TaskSpec:
    """What a step's task is given."""

    cpu: str
    memory: str
    minutes: int  # then its pod is ended, and the task tried again
    secrets: tuple[str, ...] = ()
    retries: int = 2
    cached: bool = False  # where inputs alone decide the outputs, and no input is new in each run
    gpu: bool = False  # in the GPU variant

    @property
    def window(self) -> int:
        """Seconds from the first try's start in which the task may be tried again, and has to end.

        Kubeflow's backoff_max_duration is no limit to a pause: Argo counts the tries themselves, and ends the
        one that runs.
        """
        return 60 * (self.retries + 1) * (self.minutes + WAITING_MINUTES)


TASK_SPECS = {
    "revision": TaskSpec("1", "1G", 10, (S3,)),
    "ingest": TaskSpec("2", "4G", 180, (S3,), cached=True),
    "split": TaskSpec("4", "8G", 120, cached=True),
    "train": TaskSpec("8", "32G", 48 * 60, (S3, TRAINER), retries=3, cached=True, gpu=True),
    "export": TaskSpec("4", "8G", 60, cached=True),
    "fetch-champion": TaskSpec("1", "2G", 10, (TRAINER,)),
    "evaluate": TaskSpec("4", "8G", 120, gpu=True),
    "benchmark": TaskSpec("4", "8G", 60, gpu=True),
    "promote": TaskSpec("2", "4G", 30, (PROMOTER,)),
    "drift": TaskSpec("2", "4G", 60),
    "notify": TaskSpec("1", "1G", 10, (TRAINER, NOTIFY)),
}


def here(task: PipelineTask, step: str) -> PipelineTask:
    """Places a task on this machine: what failed is tried again at once."""
    return task.set_display_name(step).set_retry(TASK_SPECS[step].retries, backoff_duration="1s", backoff_factor=1)


def on_cluster(image: str, *, gpu: bool) -> Place:
    """Places tasks on a cluster, in `image`; in the GPU variant those that can use one get one."""

    def place(task: PipelineTask, step: str) -> PipelineTask:
        needs = TASK_SPECS[step]
        task.set_display_name(step).set_container_image(image)
        task.set_cpu_request(needs.cpu).set_cpu_limit(needs.cpu)
        task.set_memory_request(needs.memory).set_memory_limit(needs.memory)
        if gpu and needs.gpu:
            task.set_accelerator_type(GPU).set_accelerator_limit(1)
        task.set_caching_options(needs.cached)
        task.set_retry(needs.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration=f"{needs.window}s")
        kubernetes.set_timeout(task, 60 * needs.minutes)
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
        kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "dbrnet")
        kubernetes.add_pod_label(task, "app.kubernetes.io/component", step)
        _give_settings(task, needs)
        if step == "train":
            _prepare_training(task, image, gpu=gpu)
        return task

    return place


def _give_settings(task: PipelineTask, needs: TaskSpec) -> None:
    """Addresses from the ConfigMap, credentials from those secrets alone that the step needs."""
    if not needs.secrets:
        return
    for settings, names in SETTINGS.items():
        _use_settings(task, settings, names)
    for secret in needs.secrets:
        keys = {key: key for key in SECRET_KEYS[secret]}
        kubernetes.use_secret_as_env(task, secret, keys, optional=secret == NOTIFY)


def _use_settings(task: PipelineTask, settings: str, names: Sequence[str]) -> None:
    kubernetes.use_config_map_as_env(task, settings, {name: name for name in names}, optional=True)


def _prepare_training(task: PipelineTask, image: str, *, gpu: bool) -> None:
    """Checkpoints that outlive the pod, shared memory, and what a training on several nodes needs."""
    place, volume = VOLUMES["checkpoints"]
    kubernetes.mount_pvc(task, volume["persistentVolumeClaim"]["claimName"], place)
    # PyTorch's loading processes hand images over through shared memory, of which a pod has 64 MB.
    place, volume = VOLUMES["shared-memory"]
    kubernetes.empty_dir_mount(
        task, "shared-memory", place, volume["emptyDir"]["medium"], volume["emptyDir"]["sizeLimit"]
    )
    task.set_env_variable("DBRNET_IMAGE", image)
    if gpu:
        task.set_env_variable("DBRNET_ACCELERATOR", GPU)
    for settings in SETTINGS:
        _use_settings(task, settings, [EXCHANGE])
