"""How each task runs on a cluster: its image, resources, time, retries, secrets, and whether it is cached."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kfp import kubernetes
from kfp.dsl import PipelineTask

from dbrnet.cluster.trainjob import SECRETS, SETTINGS, USER, VOLUMES

Place = Callable[[PipelineTask, str], PipelineTask]  # configures the task of a step, by the step's name

# The Secrets that the cluster has to hold; docs/cluster.md describes how to create them. TrainJobs use the same.
S3, TRAINER = SECRETS
PROMOTER, NOTIFY = "dbrnet-promoter", "dbrnet-notify"
SECRET_KEYS = SECRETS | {PROMOTER: SECRETS[TRAINER], NOTIFY: ("DBRNET_NOTIFY_URL",)}
STAGING = "DBRNET_STAGING"  # the S3 address of the staging area for training on several nodes
GPU = "nvidia.com/gpu"
WAITING_MINUTES = 24 * 60  # that each attempt may wait to be scheduled, pauses included


@dataclass(frozen=True)
class TaskSpec:
    """The resources, time, retries and secrets of a step's task."""

    cpu: str
    memory: str
    minutes: int  # after which its pod is ended and the task retried
    secrets: tuple[str, ...] = ()
    retries: int = 2
    cached: bool = False  # only where the inputs alone decide the outputs, and no input changes with each run
    gpu: bool = False  # has a GPU in the GPU variant

    @property
    def window(self) -> int:
        """Seconds from the first attempt's start within which the task may be retried, and has to end.

        Kubeflow's backoff_max_duration does not limit a pause: Argo counts the attempts too, and ends the one
        that runs when it has passed.
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
    """Configure a task for this machine: a failed one is retried at once."""
    return task.set_display_name(step).set_retry(TASK_SPECS[step].retries, backoff_duration="1s", backoff_factor=1)


def on_cluster(image: str, *, gpu: bool) -> Place:
    """Configure tasks for a cluster, in `image`; with `gpu`, those that can use a GPU get one."""

    def place(task: PipelineTask, step: str) -> PipelineTask:
        spec = TASK_SPECS[step]
        task.set_display_name(step).set_container_image(image)
        task.set_cpu_request(spec.cpu).set_cpu_limit(spec.cpu)
        task.set_memory_request(spec.memory).set_memory_limit(spec.memory)
        if gpu and spec.gpu:
            task.set_accelerator_type(GPU).set_accelerator_limit(1)
        task.set_caching_options(spec.cached)
        task.set_retry(spec.retries, backoff_duration="60s", backoff_factor=2, backoff_max_duration=f"{spec.window}s")
        kubernetes.set_timeout(task, 60 * spec.minutes)
        kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
        kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "dbrnet")
        kubernetes.add_pod_label(task, "app.kubernetes.io/component", step)
        if spec.secrets:  # whoever uses credentials uses the addresses too
            for settings, names in SETTINGS.items():
                _use_settings(task, settings, names)
        for secret in spec.secrets:
            keys = {key: key for key in SECRET_KEYS[secret]}
            kubernetes.use_secret_as_env(task, secret, keys, optional=secret == NOTIFY)
        if step == "train":
            _prepare_training(task, image, gpu=gpu)
        return task

    return place


def _use_settings(task: PipelineTask, settings: str, names: Sequence[str]) -> None:
    kubernetes.use_config_map_as_env(task, settings, {name: name for name in names}, optional=True)


def _prepare_training(task: PipelineTask, image: str, *, gpu: bool) -> None:
    """Checkpoints that outlive the pod, shared memory, and what a TrainJob is made of."""
    path, volume = VOLUMES["checkpoints"]
    kubernetes.mount_pvc(task, volume["persistentVolumeClaim"]["claimName"], path)
    # PyTorch's loader processes pass images through shared memory, of which a pod has 64 MB by default.
    path, volume = VOLUMES["shared-memory"]
    memory = volume["emptyDir"]
    kubernetes.empty_dir_mount(task, "shared-memory", path, memory["medium"], memory["sizeLimit"])
    task.set_env_variable("DBRNET_IMAGE", image)
    if gpu:
        task.set_env_variable("DBRNET_ACCELERATOR", GPU)
    for settings in SETTINGS:
        _use_settings(task, settings, [STAGING])
