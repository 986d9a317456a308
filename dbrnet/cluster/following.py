"""Waiting for a TrainJob to end, and reporting what keeps it from starting or why it failed."""

import logging
import time
from dataclasses import dataclass
from typing import Any

from dbrnet.cluster.api import POD_LABEL, Cluster
from dbrnet.cluster.trainjob import DEADLINE_HOURS
from dbrnet.errors import JobError

log = logging.getLogger(__name__)

# Seconds after which a job that does not start is given up:
MISSING_SECONDS = 300.0  # while an image or a secret is missing: a registry may be unavailable for a moment
ROOM_SECONDS = 3600.0  # while the cluster has no room for the pods
POLL_SECONDS = 15.0  # between two polls, at most

_UNUSABLE_IMAGE = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}
_UNUSABLE_SETTINGS = {"CreateContainerConfigError", "CreateContainerError"}


@dataclass(frozen=True)
class _Obstacle:
    """What keeps a job from starting, and whether it goes away when other jobs end."""

    message: str
    may_pass: bool

    @property
    def patience(self) -> float:
        return ROOM_SECONDS if self.may_pass else MISSING_SECONDS


def follow(cluster: Cluster, name: str) -> None:
    """Return when the TrainJob is complete.

    Raises `JobError` with the reason when it failed, was deleted, or does not start. One that does not start is
    deleted, so that it holds no place in the cluster.
    """
    last: _Obstacle | None = None
    pause, since = min(1.0, POLL_SECONDS), time.monotonic()
    while True:
        job = cluster.job(name)
        if job is None:
            raise JobError(f"the train job {name} was deleted while it ran; run it again to go on")
        conditions = _conditions(job)
        if "Complete" in conditions:
            return
        if failed := conditions.get("Failed"):
            raise JobError(_why_failed(name, failed, cluster.pods(name)))
        obstacle = _obstacle(cluster, name, job)
        if obstacle is None or last is None or obstacle.may_pass != last.may_pass:
            since = time.monotonic()
        if obstacle and (last is None or obstacle.message != last.message):
            log.info("the train job %s waits: %s", name, obstacle.message)
        last = obstacle
        if obstacle and time.monotonic() - since >= obstacle.patience:
            cluster.delete(name)
            raise JobError(f"the train job {name} did not start: {obstacle.message}")
        time.sleep(pause)
        pause = min(1.5 * pause, POLL_SECONDS)


def has_failed(job: dict[str, Any]) -> bool:
    """Whether the TrainJob ended without a result."""
    return "Failed" in _conditions(job)


def _conditions(job: dict[str, Any]) -> dict[str, dict[str, Any]]:
    conditions = job.get("status", {}).get("conditions", [])
    return {condition["type"]: condition for condition in conditions if condition["status"] == "True"}


def _why_failed(name: str, condition: dict[str, Any], pods: list[Any]) -> str:
    if condition.get("reason") == "DeadlineExceeded":
        return f"the train job {name} was ended at its deadline of {DEADLINE_HOURS} hours; run it again to go on"
    reasons = [reason for pod in pods if (reason := _pod_failure(pod))]
    reason = reasons[0] if reasons else f"{condition.get('reason')}: {condition.get('message')}"
    return f"the train job {name} failed: {reason}; its logs: kubectl logs -l {POD_LABEL}={name}"


def _pod_failure(pod: Any) -> str | None:
    """The last message of a container of the pod that failed, or what ended it."""
    for status in pod.status.container_statuses or ():
        ended = status.state.terminated or (status.last_state and status.last_state.terminated)
        if ended and ended.exit_code:
            if ended.reason == "OOMKilled":
                return f"{pod.metadata.name} ran out of memory (OOMKilled); lower train.batch_size or workers"
            return str(ended.message or f"{pod.metadata.name} ended with exit status {ended.exit_code}").strip()
    return f"{pod.metadata.name} was evicted: {pod.status.message}" if pod.status.reason == "Evicted" else None


def _obstacle(cluster: Cluster, name: str, job: dict[str, Any]) -> _Obstacle | None:
    if "Suspended" in _conditions(job):
        return _Obstacle("it is suspended; a queue holds it until there is room", may_pass=True)
    trainer = job["spec"]["trainer"]
    pods = cluster.pods(name)
    for pod in pods:
        if obstacle := _pod_obstacle(pod, trainer["image"]):
            return obstacle
    if len(pods) < trainer["numNodes"] and (messages := cluster.creation_failures(name)):
        return _Obstacle(f"its pods cannot be made: {messages[-1]}", may_pass=True)
    return None


def _pod_obstacle(pod: Any, image: str) -> _Obstacle | None:
    for status in pod.status.container_statuses or ():
        if (waiting := status.state.waiting) is None:
            continue
        if waiting.reason in _UNUSABLE_IMAGE:
            return _Obstacle(
                f"the image {image} cannot be pulled ({waiting.reason}: {waiting.message}); check its name "
                "and digest, and the registry's credentials",
                may_pass=False,
            )
        if waiting.reason in _UNUSABLE_SETTINGS:
            return _Obstacle(f"{waiting.message} ({waiting.reason}); make it in this namespace", may_pass=False)
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return _Obstacle(f"no node has room for its pods: {condition.message}", may_pass=True)
    return None
