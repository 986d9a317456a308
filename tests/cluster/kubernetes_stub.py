"""A small Kubernetes API over HTTPS, as a pod meets it: TrainJobs are kept, their ends and pods are told."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
from pydantic import ValidationError

from tests.http_server import Handler, self_signed, serving

NAMESPACE, TOKEN = "line3", "token-of-the-pod"
JOBS = f"/apis/trainer.kubeflow.org/v1alpha1/namespaces/{NAMESPACE}/trainjobs"
Json = dict[str, Any]


def strictly(job: Json) -> Json:
    """The TrainJob as Kubeflow Trainer's own models read it; an unknown or ill-typed field is an error."""
    read = TrainerV1alpha1TrainJob.from_dict(job)
    assert read is not None
    assert read.to_dict() == job, "a field that the schema does not know"
    _check_bounds(job)
    return job


def _check_bounds(job: Json) -> None:
    """What the CRD (v2.3.0) and Trainer's webhook ask for beyond types, of the fields that we use."""
    name, trainer = job["metadata"]["name"], job["spec"]["trainer"]
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name), "metadata.name is no DNS label"
    assert len(name) <= 63, "metadata.name is too long"
    assert job["spec"]["activeDeadlineSeconds"] >= 1
    assert len(trainer["image"]) <= 500
    assert trainer["numNodes"] >= 1
    assert trainer["numProcPerNode"] >= 1
    assert len(trainer["command"]) <= 128
    _check_keys(trainer["env"], "name")
    assert not [one for one in trainer["env"] if one["name"].startswith("PET_")], "the launcher's variable"
    _check_keys(job["spec"]["runtimePatches"], "manager", at_most=16)
    for patch in job["spec"]["runtimePatches"]:
        domain, _, path = patch["manager"].partition("/")
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", domain), "manager is no domain with a path"
        assert path, "manager is no domain with a path"
        jobs = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        _check_keys(jobs, "name", at_most=100)
        for one in jobs:
            pod = one["template"]["spec"]["template"]["spec"]
            _check_keys(pod["volumes"], "name")
            _check_keys(pod["containers"], "name", at_most=64)
            for container in pod["containers"]:
                assert "env" not in container, "goes through spec.trainer.env"
                _check_keys(container["volumeMounts"], "name")


def _check_keys(items: list[Json], key: str, at_most: int = 128) -> None:
    """A list that is a map by `key`: an API server refuses a key that comes twice."""
    keys = [item[key] for item in items]
    assert len(keys) <= at_most, f"too many of {keys}"
    assert len(set(keys)) == len(keys), f"twice the same {key} in {keys}"


def condition(type_: str, reason: str = "", message: str = "") -> Json:
    return {"type": type_, "status": "True", "reason": reason, "message": message}


@dataclass
class Stub:
    """What the API knows, and how it answers."""

    folder: Path  # gets the service account's files, and the key
    port: int = 0
    jobs: dict[str, Json] = field(default_factory=dict)
    pods: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)  # methods and paths
    refusals: list[tuple[int, str]] = field(default_factory=list)  # status and message of the next answers
    on_create: Callable[[Json], None] = lambda job: None
    lingers: int = 0  # how many times a deleted job is still seen

    def __post_init__(self) -> None:
        self_signed(self.folder, "IP:127.0.0.1")
        (self.folder / "token").write_text(TOKEN)
        (self.folder / "namespace").write_text(f"{NAMESPACE}\n")

    def end(self, type_: str, reason: str = "", message: str = "") -> Callable[[Json], None]:
        """For `on_create`: the job ends at once."""

        def set_status(job: Json) -> None:
            job["status"] = {"conditions": [condition(type_, reason, message)]}

        return set_status

    def pod(self, **status: Any) -> None:
        """The job has a pod of this status."""
        metadata = {"name": "dbrnet-x-node-0-0-abcde", "namespace": NAMESPACE}
        self.pods.append({"metadata": metadata, "spec": {"containers": [{"name": "node"}]}, "status": status})

    def container(self, state: Json) -> None:
        """The job has a pod whose container is in this state."""
        base = {"name": "node", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
        self.pod(containerStatuses=[base | {"state": state}])

    @contextmanager
    def running(self) -> Iterator[None]:
        """Serve, at the same port each time."""
        with serving(_Handler, self, port=self.port, certificate=self.folder) as server:
            self.port = server.server_port
            yield


class _Handler(Handler):
    @property
    def stub(self) -> Stub:
        stub: Stub = self.server.state
        return stub

    def answer(self) -> None:
        url = urlsplit(self.path)
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"]))) if self.command == "POST" else {}
        self.stub.asked.append(f"{self.command} {url.path}")
        if self._refused():
            return
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        name = url.path.removeprefix(f"{JOBS}/")
        if self.command == "POST":
            self._create(job, query)
        elif url.path == f"/api/v1/namespaces/{NAMESPACE}/pods":
            assert query["labelSelector"].startswith("jobset.sigs.k8s.io/jobset-name=dbrnet-")
            self._send(200, {"kind": "PodList", "items": self.stub.pods})
        elif url.path == f"/api/v1/namespaces/{NAMESPACE}/events":
            assert query["fieldSelector"] == "reason=FailedCreate"
            self._send(200, {"kind": "EventList", "items": self.stub.events})
        elif name in self.stub.jobs:
            self._send(200, self._delete(name) if self.command == "DELETE" else self._look(name))
        else:
            self._fail(404, "NotFound", f'trainjobs "{name}" not found')

    def _create(self, job: Json, query: Json) -> None:
        try:
            assert query == {"fieldValidation": "Strict"}
            strictly(job)
        except (AssertionError, LookupError, ValidationError) as error:
            self._fail(400, "BadRequest", str(error))
            return
        name = job["metadata"]["name"]
        if name in self.stub.jobs:
            self._fail(409, "AlreadyExists", f'trainjobs "{name}" already exists')
        else:
            self.stub.jobs[name] = job
            self._send(201, job)
            self.stub.on_create(job)

    def _delete(self, name: str) -> Json:
        """In the foreground: the job is seen until its pods are gone."""
        job = self.stub.jobs[name]
        job["metadata"]["deletionTimestamp"] = "2026-11-28T12:00:00Z"
        if not self.stub.lingers:
            del self.stub.jobs[name]
        return job

    def _look(self, name: str) -> Json:
        job = self.stub.jobs[name]
        if "deletionTimestamp" in job["metadata"]:
            self.stub.lingers -= 1
            if self.stub.lingers == 0:
                del self.stub.jobs[name]
        return job

    def _refused(self) -> bool:
        if self.headers["Authorization"] != f"bearer {TOKEN}":
            self._fail(401, "Unauthorized", "Unauthorized")
            return True
        if not self.stub.refusals:
            return False
        status, message = self.stub.refusals.pop(0)
        if status == 0:  # the connection breaks off
            self.close_connection = True
            self.connection.close()
        else:
            self._fail(status, "Refused", message)
        return True

    def _fail(self, status: int, reason: str, message: str) -> None:
        body = {"kind": "Status", "status": "Failure", "code": status, "reason": reason, "message": message}
        self._send(status, body)

    def _send(self, status: int, body: Json) -> None:
        self.respond(status, json.dumps(body).encode(), Content_Type="application/json")
