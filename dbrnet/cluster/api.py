"""The Kubernetes API with the rights of the pod's service account: the only module that uses its client library."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kubernetes.client import ApiClient, ApiException, Configuration, CoreV1Api, CustomObjectsApi
from kubernetes.config import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader
from urllib3.exceptions import HTTPError

from dbrnet.addresses import redact
from dbrnet.cluster.trainjob import GROUP, PLURAL, VERSION
from dbrnet.errors import JobError, UnavailableError, UserError
from dbrnet.retries import KUBERNETES

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")  # in every pod
POD_LABEL = "jobset.sigs.k8s.io/jobset-name"  # on a TrainJob's pods: its name
_TIMEOUT = {"_request_timeout": (10, 60)}  # seconds to connect, to answer


class Cluster:
    """The TrainJobs of this pod's namespace, and their pods.

    An API that is unavailable or overloaded is waited for (`retries.KUBERNETES`). Raises `UserError` outside
    of a pod and where the service account lacks a right, `JobError` where the API stays unavailable.
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
        self._kind = {"group": GROUP, "version": VERSION, "namespace": self.namespace, "plural": PLURAL, **_TIMEOUT}

    def create(self, job: dict[str, Any]) -> bool:
        """Create the TrainJob; False where one of its name exists."""
        create = self._objects.create_namespaced_custom_object
        created = self._call(
            "create trainjobs", lambda: create(**self._kind, body=job, field_validation="Strict"), unless=409
        )
        return created is not None

    def job(self, name: str) -> dict[str, Any] | None:
        """The TrainJob, or None."""
        get = self._objects.get_namespaced_custom_object
        job: dict[str, Any] | None = self._call("get trainjobs", lambda: get(**self._kind, name=name), unless=404)
        return job

    def delete(self, name: str) -> None:
        """Delete the TrainJob with its pods, if it exists; this may take a moment to finish."""
        delete = self._objects.delete_namespaced_custom_object
        self._call(
            "delete trainjobs", lambda: delete(**self._kind, name=name, propagation_policy="Foreground"), unless=404
        )

    def pods(self, name: str) -> list[Any]:
        """The TrainJob's pods, as the client library's V1Pod."""
        selector = f"{POD_LABEL}={name}"
        pods = self._call(
            "list pods", lambda: self._core.list_namespaced_pod(self.namespace, label_selector=selector, **_TIMEOUT)
        )
        return list(pods.items)

    def creation_failures(self, name: str) -> list[str]:
        """The cluster's messages that it could not create the TrainJob's pods, latest last."""
        events = self._call(
            "list events",
            lambda: self._core.list_namespaced_event(self.namespace, field_selector="reason=FailedCreate", **_TIMEOUT),
        )
        return [event.message for event in events.items if event.involved_object.name.startswith(name)]

    @KUBERNETES.retried
    def _call(self, right: str, action: Callable[[], Any], unless: int = 0) -> Any:
        """The result of `action`, which needs a right, or None where the API answers with the status `unless`."""
        try:
            return action()
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
