"""A small Kubernetes API over HTTPS, as a pod meets it: TrainJobs are kept, their ends and pods are told."""

import datetime
import ipaddress
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob
from pydantic import ValidationError

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
        _write_certificate(self.folder)
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
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "ca.crt", self.folder / "key.pem")
        handler = type("Handler", (_Handler,), {"stub": self})
        with ThreadingHTTPServer(("127.0.0.1", self.port), handler) as http:
            self.port = http.server_port
            http.socket = context.wrap_socket(http.socket, server_side=True)
            threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
            try:
                yield
            finally:
                http.shutdown()


class _Handler(BaseHTTPRequestHandler):
    stub: Stub

    def do_POST(self) -> None:
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return
        try:
            assert parse_qs(urlsplit(self.path).query) == {"fieldValidation": ["Strict"]}
            strictly(job)
        except (AssertionError, LookupError, ValidationError) as error:
            self._answer(400, _status(400, "BadRequest", str(error)))
            return
        name = job["metadata"]["name"]
        if name in self.stub.jobs:
            self._answer(409, _status(409, "AlreadyExists", f'trainjobs "{name}" already exists'))
        else:
            self.stub.jobs[name] = job
            self._answer(201, job)
            self.stub.on_create(job)

    def do_GET(self) -> None:
        if self._refused():
            return
        path, query = urlsplit(self.path).path, parse_qs(urlsplit(self.path).query)
        if path == f"/api/v1/namespaces/{NAMESPACE}/pods":
            assert query["labelSelector"][0].startswith("jobset.sigs.k8s.io/jobset-name=dbrnet-")
            self._answer(200, {"kind": "PodList", "items": self.stub.pods})
        elif path == f"/api/v1/namespaces/{NAMESPACE}/events":
            assert query["fieldSelector"] == ["reason=FailedCreate"]
            self._answer(200, {"kind": "EventList", "items": self.stub.events})
        else:
            self._answer_job(path, self._look)

    def do_DELETE(self) -> None:
        if not self._refused():
            self._answer_job(urlsplit(self.path).path, self._delete)

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

    def _answer_job(self, path: str, of: Callable[[str], Json]) -> None:
        name = path.removeprefix(f"{JOBS}/")
        if name in self.stub.jobs:
            self._answer(200, of(name))
        else:
            self._answer(404, _status(404, "NotFound", f'trainjobs "{name}" not found'))

    def _refused(self) -> bool:
        self.stub.asked.append(f"{self.command} {urlsplit(self.path).path}")
        if self.headers["Authorization"] != f"bearer {TOKEN}":
            self._answer(401, _status(401, "Unauthorized", "Unauthorized"))
            return True
        if not self.stub.refusals:
            return False
        status, message = self.stub.refusals.pop(0)
        if status == 0:  # the connection breaks off
            self.close_connection = True
            self.connection.close()
        else:
            self._answer(status, _status(status, "Refused", message))
        return True

    def _answer(self, status: int, body: Json) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _status(code: int, reason: str, message: str) -> Json:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


def _write_certificate(folder: Path) -> None:
    """A key and a certificate for 127.0.0.1 that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cluster")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(address, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "ca.crt").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(private)
