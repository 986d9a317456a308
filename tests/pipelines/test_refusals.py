"""A server that is away, slow, wrong or unwilling: one line for a person, and nothing secret in it."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from pipelines import client
from tests.pipelines.conftest import Command, Outcome
from tests.pipelines.kfp_server import Fault, KfpServer, kfp_server

SECRET = "eyJhbGciOi.secret"


def one_line(outcome: Outcome, status: int, words: str) -> None:
    assert outcome.status == status, outcome
    assert outcome.error.startswith("error: " if status == 2 else "failed: ")
    assert words in outcome.error
    assert len(outcome.error.splitlines()) == 1
    assert SECRET not in outcome.error + outcome.out
    assert "Traceback" not in outcome.error


def test_a_closed_port_is_one_line(command: Command) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    outcome = command("list", host=f"http://127.0.0.1:{port}")
    one_line(outcome, 1, f"http://127.0.0.1:{port} cannot be reached: ")
    assert "Connection refused" in outcome.error


def test_an_unknown_host_is_one_line(command: Command) -> None:
    one_line(command("list", host="https://kubeflow.invalid/pipeline"), 1, "cannot be reached: ")


def test_a_host_needs_its_protocol(command: Command) -> None:
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
    caplog.set_level("INFO", "pipelines")
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


def test_a_redirect_to_a_login_page_is_a_refusal(cluster: KfpServer, command: Command) -> None:
    cluster.faults.append(Fault("login"))
    one_line(command("list"), 2, "refuses us (302): the token has expired or may not do this; log in again")


def test_another_kind_of_server_is_recognised(cluster: KfpServer, command: Command) -> None:
    outcome = command("list", host=f"{cluster.address}/elsewhere")
    one_line(outcome, 2, "is not the API of Kubeflow Pipelines: 404 page not found; give the address before /apis")
    cluster.faults.append(Fault("page"))
    one_line(command("list"), 2, "is not the API of Kubeflow Pipelines: it answers with a page")


def test_a_trailing_slash_of_the_host_is_ignored(cluster: KfpServer, command: Command) -> None:
    assert f"{cluster.address}/#/runs/" in command("submit", "PACKAGE", host=f"{cluster.address}/").out


def test_a_refusal_quotes_the_server(cluster: KfpServer, command: Command) -> None:
    cluster.faults.append(Fault(400, "POST", ".*/recurringruns"))
    outcome = command("schedule", "nightly", "PACKAGE", "--cron", "0 0 2 * * *")
    one_line(outcome, 2, "refuses the request (400): made to fail")


def test_certificates(cluster: KfpServer, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    certificate = self_signed(tmp_path / "server.pem")
    with kfp_server(certificate) as server:
        one_line(command("list", host=server.address), 2, "has no certificate that we trust")
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert command("list", host=server.address).out == "no schedules\n"
        other = server.address.replace("localhost", "127.0.0.1")
        one_line(command("list", host=other), 2, "has no certificate that we trust")
    wrong = cluster.address.replace("http:", "https:")
    one_line(command("list", host=wrong), 2, "has no certificate that we trust")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert command("list", host=wrong).status == 2


def self_signed(path: Path) -> Path:
    """A certificate for localhost with its key, as one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + made.public_bytes(serialization.Encoding.PEM))
    return path
