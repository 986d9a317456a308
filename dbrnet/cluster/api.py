"""The Kubernetes API as the pod's service account may use it: the one door to the client library.

An API that is away or overloaded is waited for; what someone has to mend is told in one line.
"""

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api, CustomObjectsApi
from kubernetes.config import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader
from urllib3.exceptions import HTTPError

from dbrnet.addresses import redact
from dbrnet.cluster.trainjob import GROUP, PLURAL, VERSION
from dbrnet.errors import JobError, UserError

log = logging.getLogger(__name__)

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # in every pod
POD_LABEL = "jobset.sigs.k8s.io/jobset-name"  # of a TrainJob's pods: its name
AWAY_SECONDS = 600.0  # the API may be away for so long
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # between tries; the last is repeated
_TIMEOUT = (10, 60)  # seconds to connect, to answer

Result = TypeVar("Result")


class Cluster:
    """The TrainJobs of this pod's namespace, and their pods.

    Raises `UserError` outside of a pod and where the service account lacks a right, `JobError` where the API
    stays away.
    """

    def __init__(self) -> None:
        configuration = Configuration()
        try:
            token, authority = SERVICE_ACCOUNT / "token", SERVICE_ACCOUNT / "ca.crt"
            InClusterConfigLoader(str(token), str(authority)).load_and_set(configuration)
            self.namespace = (SERVICE_ACCOUNT / "namespace").read_text().strip()
        except (ConfigException, FileNotFoundError):
            raise UserError(
                "train.nodes above 1 trains on a Kubernetes cluster, and this is none of its pods; run the "
                "pipeline there, or set train.nodes to 1"
            ) from None
        configuration.retries = False  # ours, below
        client = ApiClient(configuration)
        self._objects, self._core = CustomObjectsApi(client), CoreV1Api(client)
        self._place = {"group": GROUP, "version": VERSION, "namespace": self.namespace, "plural": PLURAL}

    def create(self, job: dict[str, Any]) -> bool:
        """Create the TrainJob; False where there is one of its name."""

        def post() -> bool:
            try:
                self._objects.create_namespaced_custom_object(
                    **self._place, body=job, field_validation="Strict", _request_timeout=_TIMEOUT
                )
            except ApiException as error:
                if error.status == 409:
                    return False
                raise
            return True

        return self._asked(post, "create trainjobs")

    def job(self, name: str) -> dict[str, Any] | None:
        """The TrainJob, or None."""

        def get() -> dict[str, Any] | None:
            try:
                found: dict[str, Any] = self._objects.get_namespaced_custom_object(
                    **self._place, name=name, _request_timeout=_TIMEOUT
                )
            except ApiException as error:
                if error.status == 404:
                    return None
                raise
            return found

        return self._asked(get, "get trainjobs")

    def delete(self, name: str) -> None:
        """Delete the TrainJob with its pods, if there is one; it may take a moment to be gone."""

        def remove() -> None:
            try:
                self._objects.delete_namespaced_custom_object(
                    **self._place, name=name, propagation_policy="Foreground", _request_timeout=_TIMEOUT
                )
            except ApiException as error:
                if error.status != 404:
                    raise

        self._asked(remove, "delete trainjobs")

    def pods(self, name: str) -> list[Any]:
        """The TrainJob's pods, as the client library's V1Pod."""
        selector = f"{POD_LABEL}={name}"
        listed = self._asked(
            lambda: self._core.list_namespaced_pod(self.namespace, label_selector=selector, _request_timeout=_TIMEOUT),
            "list pods",
        )
        return list(listed.items)

    def failures_to_create(self, name: str) -> list[str]:
        """What the cluster said when it could not make the TrainJob's pods, latest last."""
        listed = self._asked(
            lambda: self._core.list_namespaced_event(
                self.namespace, field_selector="reason=FailedCreate", _request_timeout=_TIMEOUT
            ),
            "list events",
        )
        return [event.message for event in listed.items if event.involved_object.name.startswith(name)]

    def _asked(self, action: Callable[[], Result], right: str) -> Result:
        """What `action` returns, tried again for `AWAY_SECONDS` while the API is away or overloaded."""
        began, tries = time.monotonic(), 0
        while True:
            try:
                return action()
            except ApiException as error:
                if 0 < error.status < 500 and error.status != 429:
                    raise self._refused(error, right) from None
                reason = f"it answers {error.status}" if error.status else str(error.reason)  # of TLS
            except (HTTPError, OSError) as error:
                reason = type(error).__name__
            if time.monotonic() - began > AWAY_SECONDS:
                raise JobError(
                    f"the Kubernetes API has been away for {AWAY_SECONDS / 60:.0f} minutes ({reason}); run "
                    "it again: a train job that was submitted goes on, and is joined"
                )
            pause = PAUSES[min(tries, len(PAUSES) - 1)] * random.uniform(0.5, 1)  # noqa: S311
            log.info("the Kubernetes API is away (%s); trying again in %.0f s", reason, pause)
            time.sleep(pause)
            tries += 1

    def _refused(self, error: ApiException, right: str) -> UserError | JobError:
        said = redact(" ".join(str(error.body or error.reason).split()))[:300]
        if "exceeded quota" in said:
            return JobError(f"the namespace's quota has no room for the train job: {said}")
        if error.status == 401:
            return UserError("the Kubernetes API does not accept the service account's token; restart the pod")
        if error.status == 403:
            return UserError(
                f"the service account of namespace {self.namespace} may not {right}; give it the role for that: {said}"
            )
        if error.status == 404:
            return UserError(
                f"the cluster knows no {PLURAL} of {GROUP}/{VERSION}; have Kubeflow Trainer installed, or "
                "set train.nodes to 1"
            )
        return UserError(f"the Kubernetes API refuses to {right} ({error.status}): {said}")
