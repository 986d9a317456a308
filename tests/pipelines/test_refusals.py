"""A server that is away, slow, wrong or unwilling: one line for a person, and nothing secret in it."""

from pathlib import Path

import pytest

from pipelines import client
from tests.http_server import self_signed
from tests.pipelines.conftest import Command, Outcome
from tests.pipelines.kfp_server import Fault, KfpServer, kfp_server

SECRET = "eyJhbGciOi.secret"


def one_line(outcome: Outcome, status: int, words: str) -> None:
    outcome.is_one_line(status, words)
    assert SECRET not in outcome.error + outcome.out


def test_hosts_that_cannot_be_reached(command: Command, away_address: str, caplog: pytest.LogCaptureFixture) -> None:
    one_line(command("list", host=f"http://{away_address}"), 1, f"http://{away_address} cannot be reached: ")
    assert {record.message for record in caplog.records} == {
        "Kubeflow Pipelines cannot be reached; trying again in 0 s"
    }
    assert "Connection refused" in command("list", host=f"http://{away_address}").error
    one_line(command("list", host="https://kubeflow.invalid/pipeline"), 1, "cannot be reached: ")
    one_line(command("list", host="kubeflow.example"), 2, "must begin with http:// or https://")


def test_a_hanging_server_times_out(cluster: KfpServer, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "READ_SECONDS", 0.1)
    cluster.faults.append(Fault("hang"))
    one_line(command("list"), 1, "did not answer in 0.1 s")
    assert len(cluster.requests) == 4


@pytest.mark.parametrize("status", [500, 502, 503, 504, 429])
def test_a_failing_server_is_retried_with_a_line_each_time(
    status: int, cluster: KfpServer, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.faults.append(Fault(status, times=3))
    assert command("list").status == 0
    lines = [record.message for record in caplog.records if record.name == "pipelines.client"]
    assert lines == [f"Kubeflow Pipelines answers {status}; trying again in 0 s"] * 3
    cluster.faults.append(Fault(status))
    one_line(command("list"), 1, f"answers {status} and does not recover: made to fail")


def test_starting_a_run_is_not_retried(cluster: KfpServer, command: Command) -> None:
    cluster.faults.append(Fault(503, "POST", ".*/runs"))
    one_line(command("submit", "PACKAGE"), 1, "answers 503 and does not recover")
    assert cluster.requests.count("POST /apis/v2beta1/runs") == 1


def test_tokens(cluster: KfpServer, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster.tokens = {"good": True, SECRET: False}
    one_line(command("list", "--namespace", "north"), 2, "refuses us in the namespace north (403): the token")
    monkeypatch.setenv("KF_PIPELINES_TOKEN", SECRET)
    one_line(command("list"), 2, "(401): the token has expired; log in again and set KF_PIPELINES_TOKEN")
    monkeypatch.setenv("KF_PIPELINES_TOKEN", "good\n")
    assert command("list").status == 0
    monkeypatch.delenv("KF_PIPELINES_TOKEN")
    token = tmp_path / "token"
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token))
    one_line(command("list"), 2, f"KF_PIPELINES_SA_TOKEN_PATH names {token}, which is no file")
    token.write_text("good")
    assert command("list").status == 0


def test_a_token_that_expires_during_wait(
    cluster: KfpServer, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_TOKEN", SECRET)
    cluster.tokens = {SECRET: True}

    def expire(request: str) -> None:
        cluster.tokens = {SECRET: not request.startswith("POST /apis/v2beta1/runs")}

    cluster.on_request = expire
    outcome = command("submit", "PACKAGE", "--wait")
    one_line(outcome, 2, "the token has expired")
    assert outcome.error.endswith("; the run itself goes on\n")
    assert "/#/runs/details/" in outcome.out


def test_a_token_file_is_read_for_each_request(
    cluster: KfpServer, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As kubelet renews it, during a command."""
    token = tmp_path / "token"
    token.write_text("first")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(token))
    cluster.tokens = {"first": True}

    def renew(request: str) -> None:
        if request.startswith("POST /apis/v2beta1/experiments"):
            token.write_text("second")
            cluster.tokens = {"second": True}

    cluster.on_request = renew
    assert command("submit", "PACKAGE").status == 0
    assert len(cluster.runs) == 1


def test_a_browser_session_is_accepted(cluster: KfpServer, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster.tokens, cluster.cookie = {}, "authservice_session=abc"
    monkeypatch.setenv("KF_PIPELINES_COOKIES", "authservice_session=abc")
    assert command("list").status == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("login", "refuses us (302): the token has expired or may not do this; log in again"),
        ("page", "is not the API of Kubeflow Pipelines: it answers with a page"),
        (404, "is not the API of Kubeflow Pipelines: made to fail; give the address before /apis"),
        (400, "refuses the request (400): made to fail"),
    ],
)
def test_a_refusal_is_explained(fault: int | str, words: str, cluster: KfpServer, command: Command) -> None:
    cluster.faults.append(Fault(fault))
    one_line(command("list"), 2, words)


def test_the_path_of_the_host_matters_but_for_a_trailing_slash(cluster: KfpServer, command: Command) -> None:
    one_line(command("list", host=f"{cluster.address}/elsewhere"), 2, "is not the API of Kubeflow Pipelines: 404")
    assert f"{cluster.address}/#/runs/" in command("submit", "PACKAGE", host=f"{cluster.address}/").out


def test_certificates(cluster: KfpServer, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    certificate = self_signed(tmp_path, "DNS:localhost")
    with kfp_server(certificate) as server:
        one_line(command("list", host=server.address), 2, "has no certificate that we trust")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "ca.crt"))
        assert command("list", host=server.address).out == "no schedules\n"
        other = server.address.replace("localhost", "127.0.0.1")
        one_line(command("list", host=other), 2, "has no certificate that we trust")
    wrong = cluster.address.replace("http:", "https:")
    one_line(command("list", host=wrong), 2, "has no certificate that we trust")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert command("list", host=wrong).status == 2
