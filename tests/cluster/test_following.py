"""A TrainJob followed through an API that fails, and ends that are told in a line."""

import threading
import time

import pytest

from dbrnet.cluster.api import Cluster
from dbrnet.cluster.trainjob import Nodes, render
from dbrnet.errors import JobError, UserError
from dbrnet.retries import KUBERNETES
from tests.cluster.conftest import IMAGE
from tests.cluster.kubernetes_stub import JOBS, Json, Stub, condition

NAME = "dbrnet-x"


def job() -> Json:
    return render(NAME, "s3://steel/jobs/x/", Nodes(2, 1, IMAGE), {})


@pytest.fixture
def cluster(stub: Stub) -> Cluster:
    """With the job submitted."""
    cluster = Cluster()
    assert cluster.create(job())
    return cluster


def complete(stub: Stub) -> None:
    stub.end("Complete", "AllJobsCompleted")(stub.jobs[NAME])


def test_outside_of_a_cluster_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(UserError, match=r"must run inside a pod of it; run the pipeline there, or set train\.nodes"):
        Cluster()


def test_a_second_job_of_a_name_is_not_created(cluster: Cluster, stub: Stub) -> None:
    assert not cluster.create(job())
    assert cluster.job(NAME) == stub.jobs[NAME]
    cluster.delete(NAME)
    cluster.delete(NAME)
    assert cluster.job(NAME) is None


@pytest.mark.parametrize("statuses", [[500, 503, 429], [0, 0], [502, 0, 500]])
def test_retries_while_the_api_fails(cluster: Cluster, stub: Stub, statuses: list[int]) -> None:
    stub.refusals += [(status, "etcd leader changed") for status in statuses]
    complete(stub)
    cluster.follow(NAME)
    assert stub.refusals == []


def test_retries_while_the_api_is_unreachable(away: Stub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "dbrnet")
    away.on_create = away.end("Complete")
    cluster = Cluster()
    done = threading.Event()

    def run() -> None:
        assert cluster.create(job())
        cluster.follow(NAME)
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    while "trying again" not in caplog.text:
        time.sleep(0.01)
    with away.running():
        thread.join()
    assert done.is_set()


def test_an_api_that_stays_unavailable_is_one_line(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KUBERNETES, "seconds", 0.05)
    stub.refusals += [(503, "")] * 1000
    with pytest.raises(JobError, match=r"Kubernetes API is unavailable .it answers 503.; run it again"):
        Cluster().job(NAME)


@pytest.mark.parametrize(
    ("status", "message", "kind", "expected"),
    [
        (403, "trainjobs is forbidden", UserError, r"may not create trainjobs; give it the role.*is forbidden"),
        (403, "exceeded quota: gpus, used: 8", JobError, r"quota has no room for the train job: .*used: 8"),
        (404, "the server could not find", UserError, r"knows no trainjobs of trainer\.kubeflow\.org/v1alpha1"),
        (422, "spec.x: Invalid", UserError, r"refuses to create trainjobs \(422\): .*spec\.x"),
    ],
)
def test_a_refusal_is_not_retried(stub: Stub, status: int, message: str, kind: type[Exception], expected: str) -> None:
    stub.refusals.append((status, message))
    with pytest.raises(kind, match=expected) as caught:
        Cluster().create(job())
    assert stub.asked == [f"POST {JOBS}"]
    assert "\n" not in str(caught.value)


def test_a_refused_token_is_a_user_error(stub: Stub) -> None:
    (stub.folder / "token").write_text("expired")
    with pytest.raises(UserError, match="does not accept the service account's token; restart the pod"):
        Cluster().job(NAME)


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (
            {"reason": "ImagePullBackOff", "message": f"not found: {IMAGE}"},
            rf"the image {IMAGE} cannot be pulled \(ImagePullBackOff: not found.*check its name and digest",
        ),
        ({"reason": "ErrImagePull", "message": "unauthorized"}, "ErrImagePull: unauthorized.*credentials"),
        (
            {"reason": "CreateContainerConfigError", "message": 'secret "dbrnet-s3" not found'},
            r'secret "dbrnet-s3" not found \(CreateContainerConfigError\); make it in this namespace',
        ),
    ],
)
def test_a_missing_image_or_secret_ends_the_job(
    cluster: Cluster, stub: Stub, state: Json, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbrnet.cluster.api.MISSING_SECONDS", 0.1)
    stub.container({"waiting": state})
    with pytest.raises(JobError, match=f"the train job dbrnet-x did not start: .*{expected}"):
        cluster.follow(NAME)
    assert stub.jobs == {}  # it holds no place


def test_an_image_missing_for_a_moment_is_waited_for(
    cluster: Cluster, stub: Stub, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dbrnet")
    stub.container({"waiting": {"reason": "ErrImagePull", "message": "registry away"}})
    thread = threading.Thread(target=lambda: cluster.follow(NAME))
    thread.start()
    while "registry away" not in caplog.text:
        time.sleep(0.01)
    complete(stub)
    thread.join()
    assert caplog.text.count("registry away") == 1
    assert NAME in stub.jobs


def no_room(stub: Stub, why: str) -> None:
    if why == "quota":
        event = {"metadata": {"name": "e"}, "reason": "FailedCreate", "message": "exceeded quota: gpus"}
        others = {"involvedObject": {"name": "another-node-0"}, "message": "not ours"}
        stub.events += [event | {"involvedObject": {"name": f"{NAME}-node-0"}}, event | others]
    elif why == "queue":
        stub.jobs[NAME]["status"] = {"conditions": [condition("Suspended", "Suspended")]}
    else:
        message = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu"
        stub.pod(conditions=[{"type": "PodScheduled", "status": "False", "message": message}])


@pytest.mark.parametrize(
    ("why", "expected"),
    [
        ("quota", "its pods cannot be made: exceeded quota: gpus"),
        ("queue", "it is suspended; a queue holds it"),
        ("nodes", "no node has room for its pods: .*Insufficient nvidia.com/gpu"),
    ],
)
def test_a_job_without_room_is_given_up(
    cluster: Cluster, stub: Stub, why: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbrnet.cluster.api.ROOM_SECONDS", 0.1)
    no_room(stub, why)
    with pytest.raises(JobError, match=f"did not start: {expected}"):
        cluster.follow(NAME)


@pytest.mark.parametrize(
    ("reason", "ended", "expected"),
    [
        ("DeadlineExceeded", None, "was ended at its deadline of 48 hours; run it again to go on"),
        ("JobsFailed", None, r"failed: JobsFailed: 1 job failed; its logs: kubectl logs -l .*=dbrnet-x"),
        ("JobsFailed", {"exitCode": 1, "message": "training diverged"}, "failed: training diverged; its logs"),
        ("JobsFailed", {"exitCode": 137, "reason": "OOMKilled"}, r"abcde ran out of memory \(OOMKilled\)"),
        ("JobsFailed", {"exitCode": 3}, "abcde ended with exit status 3"),
    ],
)
def test_a_failed_job_reports_its_reason(
    cluster: Cluster, stub: Stub, reason: str, ended: Json | None, expected: str
) -> None:
    if ended:
        stub.container({"terminated": ended})
    stub.end("Failed", reason, "1 job failed")(stub.jobs[NAME])
    with pytest.raises(JobError, match=expected):
        cluster.follow(NAME)
    assert NAME in stub.jobs  # for whoever looks for the reason


def test_a_deleted_job_is_reported(cluster: Cluster, stub: Stub) -> None:
    stub.jobs.clear()
    with pytest.raises(JobError, match="was deleted while it ran"):
        cluster.follow(NAME)
    assert f"GET {JOBS}/{NAME}" in stub.asked
