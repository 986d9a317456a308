"""The manifests' command lines, read by the programs' own parsers: a flag that is renamed turns these red."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from dbrnet.cli import app
from dbrnet.config import load_params
from tests.deploy.manifests import DEPLOY, OVERLAYS, command, environment, named, overlay, pod

ROOT = DEPLOY.parent
SECRETS = {
    "postgres": {"password": "p"},
    "mlflow": {"MLFLOW_AUTH_ADMIN_PASSWORD": "p", "MLFLOW_FLASK_SERVER_SECRET_KEY": "k"},
    "dbrnet-s3": {"AWS_ACCESS_KEY_ID": "i", "AWS_SECRET_ACCESS_KEY": "s"},
    "dbrnet-line": {"MLFLOW_TRACKING_USERNAME": "line", "MLFLOW_TRACKING_PASSWORD": "p"},
}


def words_and_environment(name: str, owner: str) -> tuple[list[str], dict[str, str]]:
    of = pod(overlay(name), owner)
    values = environment(overlay(name), of, SECRETS)
    return command(of, values), values


@pytest.mark.parametrize("name", OVERLAYS)
def test_mlflow_accepts_its_command_line(name: str) -> None:
    from mlflow.cli import server  # seconds, which whoever collects the tests need not wait

    words, values = words_and_environment(name, "mlflow")
    assert words[:2] == ["mlflow", "server"]
    given = server.make_context("server", words[2:]).params
    assert given["app_name"] == "basic-auth"
    assert given["artifacts_destination"] == values["ARTIFACTS"]
    assert given["artifacts_destination"].startswith("s3://")
    (port,) = pod(overlay(name), "mlflow").container["ports"]
    assert given["port"] == port["containerPort"]
    asked = urlsplit(values["MLFLOW_TRACKING_URI"])
    assert asked.netloc in given["allowed_hosts"].split(",")
    assert asked.hostname == "mlflow.dbrnet.svc"
    assert asked.port == named(overlay(name), "Service", "mlflow")["spec"]["ports"][0]["port"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_serve_accepts_its_command_line(name: str) -> None:
    words, values = words_and_environment(name, "inference")
    assert words[:2] == ["dbrnet", "serve"]
    given = app.parse_args(words[1:])[1].arguments
    assert given["model"] == f"models:/{values['MODEL']}@champion"
    container = pod(overlay(name), "inference").container
    assert given["port"] == container["ports"][0]["containerPort"]
    assert given["threads"] == int(container["resources"]["limits"]["cpu"])


def test_the_demo_serves_the_model_that_params_name() -> None:
    settings = named(overlay("demo"), "ConfigMap", "dbrnet")["data"]
    assert settings["MODEL"] == load_params(ROOT / "params.yaml").fetch_champion.model_name
    assert settings == named(overlay("demo"), "ConfigMap", "dbrnet", "factory")["data"]
    bucket = f"-bucket={urlsplit(settings['ARTIFACTS']).netloc}"
    assert bucket in pod(overlay("demo"), "objects").container["args"]
    service = named(overlay("demo"), "Service", "objects")["spec"]["ports"][0]["port"]
    assert settings["AWS_ENDPOINT_URL"] == f"http://objects.dbrnet.svc:{service}"


def test_mlflows_image_installs_pinned_versions() -> None:
    """Its server is the one that the tests run, and it has what the command asks for."""
    text = (DEPLOY / "mlflow" / "Dockerfile").read_text()
    (line,) = re.findall(r"^RUN pip install .* -c \S+ (.+)$", text, re.MULTILINE)
    assert set(line.split()) >= {"mlflow", "flask-wtf", "psycopg2-binary", "boto3"}
    pinned = {name.partition("==")[0].lower() for name in Path(ROOT / "constraints.txt").read_text().split()}
    assert {name.replace("_", "-") for name in line.split()} <= pinned
