"""The TrainJobs of this pod's namespace: submitted, and followed until they end.

The only module that uses Kubernetes' client library, with the rights of the pod's service account.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api, CustomObjectsApi
from kubernetes.config import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader
from urllib3.exceptions import HTTPError

from dbrnet.addresses import redact
from dbrnet.cluster.trainjob import DEADLINE_HOURS, GROUP, PLURAL, VERSION
from dbrnet.errors import JobError, UnavailableError, UserError
from dbrnet.retries import KUBERNETES

log = logging.getLogger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # in every pod
POD_LABEL = "jobset.sigs.k8s.io/jobset-name"  # on a TrainJob's pods: its name

# Seconds after which a job that does not start is given up:
MISSING_SECONDS = 300.0  # while an image or a secret is missing: a registry may be unavailable for a moment
ROOM_SECONDS = 3600.0  # while the cluster has no room for the pods
POLL_SECONDS = 15.0  # between two polls, at most

_UNUSABLE_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_UNUSABLE_SETTINGS = {"CreateContainerConfigError", "CreateContainerError"}


@dataclass(frozen=True)
class _Obstacle:
    """What keeps a job from starting."""

    message: str
    patience: float  # seconds that it is waited for


class Cluster:
    """The Kubernetes API, of which an outage or an overload is waited for (`retries.KUBERNETES`).

    Raises `UserError` outside of a pod and where the service account lacks a right, `JobError` where the API
    stays unavailable.
    """

    def __init__(self) -> None:
        configuration = Configuration()
        try:
            token, authority = SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "ca.crt"
            InClusterConfigLoader(str(token), str(authority)).load_and_set(configuration)
            self.namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
        except (ConfigException, FileNotFoundError):
            raise UserError(
                "train.nodes above 1 trains on a Kubernetes cluster and must run inside a pod of it; run the "
                "pipeline there, or set train.nodes to 1"
            ) from None
        configuration.retries = False  # urllib3's have no limit of time, and submitting may be repeated too
        client = ApiClient(configuration)
        self._objects, self._core = CustomObjectsApi(client), CoreV1Api(client)
        self._kind = {"group": GROUP, "version": VERSION, "namespace": self.namespace, "plural": PLURAL}

    def submit(self, job: dict[str, Any]) -> None:
        """Create the TrainJob or join the one of its name; a failed one is replaced."""
        name = job["metadata"]["name"]
        while not self.create(job):
            previous = self.job(name)
            if previous is None:
                continue
            is_leaving = "deletionTimestamp" in previous["metadata"]
            if not is_leaving and "Failed" not in _conditions(previous):
                log.info("joining the train job %s, which was submitted before", name)
                return
            if not is_leaving:
                self.delete(name)
            time.sleep(1)
        log.info("submitted the train job %s; see it with: kubectl get trainjob %s", name, name)

    def create(self, job: dict[str, Any]) -> bool:
        """Create the TrainJob; False where one of its name exists."""
        create = self._objects.create_namespaced_custom_object
        made = self._call("create trainjobs", create, unless=409, **self._kind, body=job, field_validation="Strict")
        return made is not None

    def job(self, name: str) -> dict[str, Any] | None:
        """The TrainJob, or None."""
        get = self._objects.get_namespaced_custom_object
        job: dict[str, Any] | None = self._call("get trainjobs", get, unless=404, **self._kind, name=name)
        return job

    def delete(self, name: str) -> None:
        """Delete the TrainJob with its pods, if it exists; this may take a moment to finish."""
        delete = self._objects.delete_namespaced_custom_object
        self._call("delete trainjobs", delete, unless=404, **self._kind, name=name, propagation_policy="Foreground")

    def follow(self, name: str) -> None:
        """Return when the TrainJob is complete.

        Raises `JobError` with the reason when it failed, was deleted, or does not start. One that does not start
        is deleted, so that it holds no place in the cluster.
        """
        last: _Obstacle | None = None
        pause, since = min(1.0, POLL_SECONDS), time.monotonic()
        while True:
            job = self.job(name)
            if job is None:
                raise JobError(f"the train job {name} was deleted while it ran; run it again to go on")
            conditions = _conditions(job)
            if "Complete" in conditions:
                return
            if failed := conditions.get("Failed"):
                raise JobError(_why_failed(name, failed, self._pods(name)))
            obstacle = self._obstacle(name, job)
            if obstacle is None or last is None or obstacle.patience != last.patience:
                since = time.monotonic()
            if obstacle and (last is None or obstacle.message != last.message):
                log.info("the train job %s waits: %s", name, obstacle.message)
            last = obstacle
            if obstacle and time.monotonic() - since >= obstacle.patience:
                self.delete(name)
                raise JobError(f"the train job {name} did not start: {obstacle.message}")
            time.sleep(pause)
            pause = min(1.5 * pause, POLL_SECONDS)

    def _obstacle(self, name: str, job: dict[str, Any]) -> _Obstacle | None:
        if "Suspended" in _conditions(job):
            return _Obstacle("it is suspended; a queue holds it until there is room", ROOM_SECONDS)
        trainer, pods = job["spec"]["trainer"], self._pods(name)
        for pod in pods:
            if obstacle := _pod_obstacle(pod, trainer["image"]):
                return obstacle
        if len(pods) < trainer["numNodes"]:
            events = self._core.list_namespaced_event
            failures = self._call("list events", events, namespace=self.namespace, field_selector="reason=FailedCreate")
            messages = [event.message for event in failures.items if event.involved_object.name.startswith(name)]
            if messages:
                return _Obstacle(f"its pods cannot be made: {messages[-1]}", ROOM_SECONDS)
        return None

    def _pods(self, name: str) -> list[Any]:
        """The TrainJob's pods, as the client library's V1Pod."""
        pods = self._core.list_namespaced_pod
        selector = f"{POD_LABEL}={name}"
        return list(self._call("list pods", pods, namespace=self.namespace, label_selector=selector).items)

    @KUBERNETES.retried
    def _call(self, right: str, function: Callable[..., Any], unless: int = 0, **arguments: Any) -> Any:
        """What `function` returns, which needs a right, or None where the API answers with the status `unless`."""
        try:
            return function(**arguments, _request_timeout=(10, 60))  # seconds to connect, to answer
        except ApiException as error:
            if error.status == unless:
                return None
            if 0 < error.status < 500 and error.status != 429:
                raise self._refused(error, right) from None
            reason = f"it answers {error.status}" if error.status else str(error.reason)  # 0: TLS
        except (HTTPError, OSError) as error:
            reason = type(error).__name__
        raise UnavailableError(
            f"the Kubernetes API is unavailable ({reason})",
            "run it again: a train job that was submitted goes on, and is joined",
        )

    def _refused(self, error: ApiException, right: str) -> UserError | JobError:
        message = redact(" ".join(str(error.body or error.reason).split()))[:300]
        if "exceeded quota" in message:
            return JobError(f"the namespace's quota has no room for the train job: {message}")
        if error.status == 401:
            return UserError("the Kubernetes API does not accept the service account's token; restart the pod")
        if error.status == 403:
            return UserError(
                f"the service account of namespace {self.namespace} may not {right}; give it the role for that: "
                f"{message}"
            )
        if error.status == 404:
            return UserError(
                f"the cluster knows no {PLURAL} of {GROUP}/{VERSION}; have Kubeflow Trainer installed, or "
                "set train.nodes to 1"
            )
        return UserError(f"the Kubernetes API refuses to {right} ({error.status}): {message}")


def _conditions(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    conditions = job.get("status", {}).get("conditions", [])
    return {condition["type"]: condition for condition in conditions if condition["status"] == "True"}


def _why_failed(name: str, condition: dict[str, Any], pods: list[Any]) -> str:
    """The last message of a container that failed, or what ended its pod, or else the job's own condition."""
    if condition.get("reason") == "DeadlineExceeded":
        return f"the train job {name} was ended at its deadline of {DEADLINE_HOURS} hours; run it again to go on"
    reasons = [reason for pod in pods if (reason := _pod_failure(pod))]
    reason = reasons[0] if reasons else f"{condition.get('reason')}: {condition.get('message')}"
    return f"the train job {name} failed: {reason}; its logs: kubectl logs -l {POD_LABEL}={name}"


def _pod_failure(pod: Any) -> str | None:
    for status in pod.status.container_statuses or ():
        ended = status.state.terminated or (status.last_state and status.last_state.terminated)
        if ended and ended.exit_code:
            if ended.reason == "OOMKilled":
                return f"{pod.metadata.name} ran out of memory (OOMKilled); lower train.batch_size or workers"
            return str(ended.message or f"{pod.metadata.name} ended with exit status {ended.exit_code}").strip()
    return f"{pod.metadata.name} was evicted: {pod.status.message}" if pod.status.reason == "Evicted" else None


def _pod_obstacle(pod: Any, image: str) -> _Obstacle | None:
    for status in pod.status.container_statuses or ():
        waiting = status.state.waiting
        if waiting and waiting.reason in _UNUSABLE_IMAGE:
            return _Obstacle(
                f"the image {image} cannot be pulled ({waiting.reason}: {waiting.message}); check its name "
                "and digest, and the registry's credentials",
                MISSING_SECONDS,
            )
        if waiting and waiting.reason in _UNUSABLE_SETTINGS:
            return _Obstacle(f"{waiting.message} ({waiting.reason}); make it in this namespace", MISSING_SECONDS)
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return _Obstacle(f"no node has room for its pods: {condition.message}", ROOM_SECONDS)
    return None
