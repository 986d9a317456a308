"""Passwords and signatures in addresses: no command that talks to a cluster shows or writes them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines import __main__, client
from tests.pipelines.conftest import PARAMS
from tests.pipelines.kfp_server import Fault, KfpServer
from tests.registry.servers import free_port
from tests.retrying import retry_at_once
from tests.secret import ADDRESS, QUERY, SECRET, Told, found_in, told

IMAGE = "registry.example/dbrnet@sha256:" + 64 * "1"
Run = Callable[..., Told]
COMMANDS = [
    ("list",),
    ("submit", "PACKAGE"),
    ("submit", "retraining", "--image", IMAGE),
    ("schedule", "nightly", "PACKAGE", "--cron", "0 0 2 * * *"),
    ("unschedule", "nightly"),
]


@pytest.fixture
def run(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `python -m pipelines WORDS`; the token is the secret too."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("KF_PIPELINES_TOKEN", SECRET)
    shutil.copy(PARAMS, folder)

    def run(*words: str, host: str) -> Told:
        given = [str(package) if word == "PACKAGE" else word for word in words]
        found = told(__main__.main, [*given, "--host", host], tmp_path / "log")
        assert SECRET not in found.text, found.text
        assert not found_in(folder, ["params.yaml"])
        return found

    return run


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_host_with_a_password(words: tuple[str, ...], cluster: KfpServer, run: Run) -> None:
    place = cluster.address.removeprefix("http://")
    told = run(*words, host=f"http://ann:{SECRET}@{place}")
    if words[0] == "submit" and not told.status:
        assert told.text.startswith(f"{cluster.address}/#/runs/details/")
    told = run(*words, host=f"{cluster.address}/{QUERY}")
    told.failed()


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_browsers_address_with_a_password(
    words: tuple[str, ...], cluster: KfpServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", f"https://ann:{SECRET}@kubeflow.example/pipeline{QUERY}")
    told = run(*words, host=cluster.address)
    assert told.status == 0
    if words[0] == "submit":
        assert told.text.startswith("https://kubeflow.example/pipeline/#/runs/details/")


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("fault", [400, 401, 403, 404, 500, "drop", "hang", "page", "login", "away"])
def test_a_server_that_fails(
    fault: int | str, words: tuple[str, ...], cluster: KfpServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "READ_SECONDS", 0.05)
    retry_at_once(monkeypatch, "KUBEFLOW", attempts=2)
    place = cluster.address.removeprefix("http://")
    if fault == "away":
        place = f"127.0.0.1:{free_port()}"
    else:
        cluster.faults.append(Fault(fault))
    run(*words, host=f"http://ann:{SECRET}@{place}/pipeline").failed()


@pytest.mark.parametrize(
    "host",
    [
        ADDRESS,
        f"http://ann:{SECRET}/1@127.0.0.1:1",
        f"http://127.0.0.1:{SECRET}",
        f"https://[{QUERY}",
        f"ann:{SECRET}@kubeflow.example",
        f"ftp://ann:{SECRET}@kubeflow.example",
    ],
)
def test_a_malformed_host(host: str, run: Run) -> None:
    for words in COMMANDS:
        run(*words, host=host).failed()


def test_an_address_in_the_error_of_a_run(cluster: KfpServer, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubeflow's words are a task's, whatever wrote them."""
    monkeypatch.setattr(__main__, "SECONDS", 0.0)

    def end(request: str) -> None:
        for made in cluster.runs.values():
            made |= {"state": "FAILED", "error": {"code": 2, "message": f"{ADDRESS}: 403"}}

    cluster.on_request = end
    told = run("submit", "PACKAGE", "--wait", host=cluster.address)
    told.failed()
    assert "https://data.invalid/set/raw.zip: 403" in told.text


@pytest.mark.parametrize("source", [ADDRESS, f"https://data.invalid/raw.zip{QUERY}"])
@pytest.mark.parametrize("words", [("submit",), ("schedule", "nightly", "--cron", "0 0 2 * * *")])
def test_a_source_with_a_secret_is_not_sent(source: str, words: tuple[str, ...], cluster: KfpServer, run: Run) -> None:
    """Kubeflow shows the parameters of a run, and each task's log begins with them."""
    params = PARAMS.read_text().replace("source: data/steel-strip ", f"source: {source!r} ")
    Path("params.yaml").write_text(params)
    told = run(*words, "training", "--image", IMAGE, host=cluster.address)
    told.failed()
    assert "ingest.source" in told.text
    assert not cluster.requests


@pytest.mark.parametrize("known", [True, False, None])
def test_an_image_with_a_password(
    known: bool | None, cluster: KfpServer, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.package.in_registry", lambda image: known)
    image = f"https://ann:{SECRET}@{IMAGE}"
    run("submit", "training", "--image", image, host=cluster.address)


def test_an_address_for_every_argument(cluster: KfpServer, run: Run) -> None:
    for words in (
        ("list", "--namespace", ADDRESS),
        ("submit", ADDRESS),
        ("submit", "PACKAGE", "--params", ADDRESS),
        ("submit", "PACKAGE", "--experiment", ADDRESS, "--namespace", ADDRESS),
        ("schedule", ADDRESS, "PACKAGE", "--cron", "0 0 2 * * *"),
        ("schedule", "nightly", "PACKAGE", "--cron", ADDRESS),
        ("schedule", "nightly", "PACKAGE", "--cron", "0 0 2 * * *", "--timezone", ADDRESS),
        ("unschedule", ADDRESS),
        ("list", ADDRESS),
        (ADDRESS,),
    ):
        run(*words, host=cluster.address)
        cluster.faults.append(Fault(500, times=2))
        run(*words, host=cluster.address)
        cluster.faults.clear()
