"""The manifests' own command lines and environments, run here on a real PostgreSQL and a real S3 server."""

import json
import os
import re
import secrets as randomness
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.error import HTTPError

import numpy as np
import psycopg2
import pytest

from dbrnet.errors import JobError
from dbrnet.registry.ledger_state import KeyFigures
from dbrnet.registry.promotion import record
from dbrnet.registry.store import open_store
from dbrnet.registry.tracking import start_or_resume_run
from dbrnet.registry.versions import register
from tests.conftest import Exported
from tests.deploy.manifests import DEPLOY, command, environment, overlay, pod
from tests.registry.acting import decided
from tests.registry.servers import BINARIES, free_port, postgresql
from tests.storage.s3_server import BUCKET, S3Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

DEMO = overlay("demo")
PASSWORDS = {name: randomness.token_hex(12) for name in ("database", "admin", "trainer", "promoter", "line")}


@contextmanager
def running(owner: str, ports: dict[str, int], secrets: dict[str, dict[str, str]], folder: Path) -> Iterator[Path]:
    """The container of `owner` as a process with the container's environment and no other; yields its log.

    Its /tmp is `folder`; the ports and the cluster's names are replaced by this machine's. Ends when every
    probe's address has answered 200, and the process after SIGTERM with status 0.
    """
    of = pod(DEMO, owner)
    text = json.dumps([command(of, (values := environment(DEMO, of, secrets))), values])
    for was, now in {
        "/tmp": str(folder),
        "@postgres/": f"@127.0.0.1:{ports['postgres']}/",
        "objects.dbrnet.svc:8333": f"127.0.0.1:{ports['s3']}",
        "http://mlflow.dbrnet.svc:5000": f"http://localhost:{ports['mlflow']}",
        "mlflow.dbrnet.svc:5000,localhost:5000": "mlflow.dbrnet.svc:{0},localhost:{0}".format(ports["mlflow"]),
        "s3://dbrnet/": f"s3://{BUCKET}/",
        "--port=5000": f"--port={ports['mlflow']}",
        "--port=8080": f"--port={ports['inference']}",
        "/etc/mlflow/": f"{folder}/",
    }.items():
        text = text.replace(was, now)
    words, values = json.loads(text)
    values["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    values["TMPDIR"] = str(folder)
    log = folder / "log"
    with log.open("wb") as to:
        process = subprocess.Popen(words, env=values, cwd=folder, stdout=to, stderr=to, start_new_session=True)
    try:
        port = ports[owner]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            path = of.container[probe]["httpGet"]["path"]
            while not answers(f"http://127.0.0.1:{port}{path}"):
                assert process.poll() is None, log.read_text()
                time.sleep(0.2)
        yield log
        process.terminate()
        assert process.wait(60) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def status(url: str, host: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Host": host}), timeout=20) as reply:
            return int(reply.status)
    except HTTPError as error:
        return error.code


@dataclass
class Api:
    """Stands in for the API server: keeps what it was asked, over TLS."""

    port: int
    account: Path
    patches: list[tuple[str, str, str, str]] = field(default_factory=list)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    account = tmp_path / "account"
    account.mkdir()
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=kubernetes"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "ca.crt"),
        ],
        cwd=account,
        check=True,
        capture_output=True,
    )
    (account / "token").write_text("a-token")
    (account / "namespace").write_text("dbrnet")
    found: list[tuple[str, str, str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_PATCH(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            kind, token = self.headers["Content-Type"], self.headers["Authorization"]
            found.append((self.path, kind, token, body))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(account / "ca.crt", account / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Api(server.server_port, account, found)
    server.shutdown()


@pytest.fixture
def database() -> Iterator[int]:
    """PostgreSQL with a user and a database called mlflow, as its image makes them; its port."""
    if not BINARIES:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    with postgresql() as uri:
        port = int(re.findall(r":(\d+)/", uri)[0])
        where = {"host": "127.0.0.1", "port": port, "user": "mlflow", "dbname": "postgres"}
        connection = psycopg2.connect(**where)
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("create database mlflow")
            cursor.execute("alter user mlflow password %s", [PASSWORDS["database"]])
            cursor.execute("show hba_file")
            (rules,) = cursor.fetchone()
            Path(rules).write_text("host all all 127.0.0.1/32 scram-sha-256\n")
            cursor.execute("select pg_reload_conf()")
        connection.close()
        while True:  # until it asks for the password
            try:
                psycopg2.connect(**where).close()
            except psycopg2.OperationalError:
                break
        yield port


def test_from_empty_servers_to_a_champion_in_production(
    database: int, s3_server: S3Server, exported: Exported, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = {"postgres": database, "s3": s3_server.port, "mlflow": free_port(), "inference": free_port()}
    login = {"MLFLOW_TRACKING_USERNAME": "line", "MLFLOW_TRACKING_PASSWORD": PASSWORDS["line"]}
    keys = s3_server.environment()
    secrets = {
        "postgres": {"password": PASSWORDS["database"]},
        "mlflow": {"MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORDS["admin"], "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32},
        "dbrnet-s3": {name: keys[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")},
        "dbrnet-line": login,
    }
    model = environment(DEMO, pod(DEMO, "inference"), secrets)["MODEL"]
    for name in ("mlflow", "inference"):
        (tmp_path / name).mkdir()
    config = (DEPLOY / "server" / "basic_auth.ini").read_text()
    (tmp_path / "mlflow" / "basic_auth.ini").write_text(
        config.replace("@postgres/", f"@127.0.0.1:{ports['postgres']}/")
    )
    with running("mlflow", ports, secrets, tmp_path / "mlflow") as log:
        port, address = ports["mlflow"], f"http://localhost:{ports['mlflow']}"
        asked = f"http://127.0.0.1:{port}/api/2.0/mlflow/users/current"
        assert status(asked, "elsewhere.example") == 403
        assert status(asked, f"mlflow.dbrnet.svc:{port}") == 401

        for _ in range(2):  # again, it changes nothing
            made = set_accounts(address, model)
            assert made.returncode == 0, made.stderr
        assert "trainer, promoter, line" in made.stdout
        refused = set_accounts(address, model, ADMIN_PASSWORD="wrong")
        assert refused.returncode == 1
        assert re.fullmatch(r"failed: \S+/create: 401 .+\n", refused.stderr)
        follow = follower(address, model, login, api)
        assert (follow.returncode, follow.stdout) == (0, f"{model} has no champion yet\n")
        assert not api.patches

        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        become(monkeypatch, "trainer")
        store = open_store(tmp_path)
        run = start_or_resume_run(store, "steel-strip", run_id=None, name="train", tags={})
        run.log_metrics({"loss": 1.0}, step=1)
        example = np.zeros((1, 64, 64, 3), np.uint8)
        with pytest.raises(JobError, match="trainer may not"):
            register(store, run, model, exported[0], files={}, tags={}, example=example)
        become(monkeypatch, "promoter")
        run = start_or_resume_run(store, "steel-strip", run_id=run.run_id, name="train", tags={})
        version = register(store, run, model, exported[0], files={}, tags={}, example=example)
        record(
            store,
            model,
            version,
            decided("promoted"),
            compared_with=None,
            decision_id="first",
            run_id=run.run_id,
            figures=KeyFigures(),
        )
        kept = s3_server.client().list_objects_v2(Bucket=BUCKET, Prefix="mlflow/")["Contents"]
        assert [each["Key"] for each in kept if each["Key"].endswith(".onnx")]

        with (
            running("inference", ports, secrets, tmp_path / "inference"),
            urllib.request.urlopen(f"http://127.0.0.1:{ports['inference']}/model", timeout=20) as reply,
        ):
            assert json.load(reply)["name"] == f"models:/{model}@champion"
        follow = follower(address, model, login, api)
        assert (follow.returncode, follow.stdout) == (0, f"production runs {model} version 1\n")
        ((path, kind, token, body),) = api.patches
        assert path == "/apis/apps/v1/namespaces/dbrnet/deployments/inference"
        assert (kind, token) == ("application/strategic-merge-patch+json", "Bearer a-token")
        said = json.loads(body)["spec"]["template"]["metadata"]["annotations"]
        assert said == {"dbrnet/champion": f"{model} version 1"}

        wrong = follower(address, model, login | {"MLFLOW_TRACKING_PASSWORD": "wrong"}, api)
        assert wrong.returncode == 1
        assert re.fullmatch(r"failed: \S+/alias: 401 .+\n", wrong.stderr)
    away = follower(address, model, login, api)
    assert away.returncode == 1
    assert re.fullmatch(r"failed: .+\n", away.stderr)
    assert len(api.patches) == 1
    assert not [password for password in PASSWORDS.values() if password in log.read_text()]


def become(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS[name])


def set_accounts(address: str, model: str, **changed: str) -> "subprocess.CompletedProcess[str]":
    given = {f"{name.upper()}_PASSWORD": password for name, password in PASSWORDS.items()}
    return subprocess.run(
        [sys.executable, str(DEPLOY / "mlflow_accounts.py"), address, model, "steel-strip"],
        env=given | changed,
        capture_output=True,
        text=True,
        check=False,
    )


def follower(address: str, model: str, login: dict[str, str], api: Api) -> "subprocess.CompletedProcess[str]":
    """The CronJob's script with its arguments, its service account's files being `api.account`."""
    of = pod(DEMO, "champion")
    words = command(of, {"MODEL": model})
    script = (DEPLOY / "server" / Path(words[1]).name).read_text()
    mounted = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert mounted in script
    given = {"MLFLOW_TRACKING_URI": address, **login}
    given |= {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": str(api.port)}
    return subprocess.run(
        [sys.executable, "-c", script.replace(mounted, str(api.account)), *words[2:]],
        env=given,
        capture_output=True,
        text=True,
        check=False,
    )
