"""`submit`: what arrives at the server, and what is result of the run."""

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from components.from_step import IMAGE as PLACEHOLDER
from dbrnet.config import Params, load_params
from pipelines import __main__
from tests.pipelines.conftest import IMAGE, PARAMS, Command
from tests.pipelines.kfp_server import Fault, KfpServer


def test_submit_sends_the_pipeline_and_its_sections(cluster: KfpServer, command: Command) -> None:
    outcome = command("submit", "PACKAGE")
    (run,) = cluster.runs.values()
    (experiment,) = cluster.experiments.values()
    assert (outcome.status, outcome.error) == (0, "")
    assert outcome.out == f"{cluster.address}/#/runs/details/{run['run_id']}\n"
    assert experiment["display_name"] == "dbrnet"
    assert run["experiment_id"] == experiment["experiment_id"]
    assert run["display_name"].startswith("small ")
    assert run["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "small"
    assert "dbrnet-s3" in json.dumps(run["pipeline_spec"]["platform_spec"])
    values = run["runtime_config"]["parameters"]
    assert set(values) == {"train", "drift"}  # what the pipeline declares, less what has a default
    params = load_params(PARAMS)
    assert json.loads(values["train"]) == params.train.model_dump(mode="json")
    assert json.loads(values["drift"]) == params.drift.model_dump(mode="json")


def test_the_experiment_is_created_once(cluster: KfpServer, command: Command) -> None:
    for _ in range(2):
        assert command("submit", "PACKAGE", "--experiment", "strip").status == 0
    assert [one["display_name"] for one in cluster.experiments.values()] == ["strip"]
    assert len({one["experiment_id"] for one in cluster.runs.values()}) == 1


def test_an_experiment_created_meanwhile_is_used(cluster: KfpServer, command: Command) -> None:
    made = cluster.stamp("experiment_id") | {"display_name": "dbrnet"}

    def meanwhile(request: str) -> None:
        if request.startswith("POST") and request.endswith("/experiments"):
            cluster.experiments[made["experiment_id"]] = made

    cluster.on_request = meanwhile
    assert command("submit", "PACKAGE").status == 0
    assert [one["experiment_id"] for one in cluster.runs.values()] == [made["experiment_id"]]


@pytest.mark.parametrize(
    ("state", "status", "words"),
    [
        ("SUCCEEDED", 0, "SUCCEEDED"),
        ("FAILED", 1, "the run ended FAILED in train: it diverged"),
        ("CANCELED", 1, "the run ended CANCELED"),
        ("SKIPPED", 1, "the run ended SKIPPED"),
    ],
)
def test_wait_ends_with_the_runs_status(
    state: str, status: int, words: str, cluster: KfpServer, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(__main__, "SECONDS", 0.01)
    states = iter(["PENDING", "RUNNING", "RUNNING", state])

    def go_on(request: str) -> None:
        if "GET" not in request or "/runs/" not in request:
            return
        (run,) = cluster.runs.values()
        run["state"] = next(states)
        if run["state"] == "FAILED":
            tasks = [{"display_name": "train", "state": "FAILED"}, {"display_name": "split", "state": "SUCCEEDED"}]
            run |= {"error": {"code": 2, "message": "it diverged"}, "run_details": {"task_details": tasks}}

    cluster.on_request = go_on
    outcome = command("submit", "PACKAGE", "--wait")
    assert outcome.status == status
    assert words in outcome.out + outcome.error
    assert len(outcome.error.splitlines()) == (status != 0)
    assert next(states, None) is None


def test_waiting_outlasts_a_short_outage_only(
    cluster: KfpServer, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A short outage is survived; a long one ends the waiting, not the run."""
    monkeypatch.setattr(__main__, "SECONDS", 0.0)
    cluster.faults.append(Fault(503, "GET", ".*/runs/.*", times=3))

    def end(request: str) -> None:
        for run in cluster.runs.values():
            run["state"] = "SUCCEEDED"

    cluster.on_request = end
    assert command("submit", "PACKAGE", "--wait").status == 0
    cluster.faults.append(Fault("drop", "GET", ".*/runs/.*"))
    outcome = command("submit", "PACKAGE", "--wait")
    assert outcome.status == 1
    assert outcome.error.endswith("; the run itself goes on\n")


def test_a_run_is_never_started_twice(cluster: KfpServer, command: Command) -> None:
    """The answer was lost, so nobody knows: it is said, and not tried again."""
    cluster.faults.append(Fault("lost", "POST", ".*/runs"))
    outcome = command("submit", "PACKAGE")
    assert outcome.status == 1
    assert len(cluster.runs) == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("submit", "small"), "error: 'small' is neither training nor retraining nor a compiled .yaml"),
        (("submit", "training"), "error: training needs --image: the image that its tasks run in"),
        (("submit", "PACKAGE", "--gpu"), "is compiled already: --image and --gpu are for training"),
        (("submit", "PACKAGE", "--params", "none.yaml"), "error: none.yaml does not exist"),
        (("submit", "PACKAGE", "--params", "wrong.yaml"), "train.steps: input should be a valid integer"),
        (("submit", "other.yaml"), "other.yaml asks for season"),
        (("submit", str(PARAMS)), "is not a compiled pipeline"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_sent(
    words: tuple[str, ...],
    line: str,
    cluster: KfpServer,
    command: Command,
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(PARAMS.read_text().replace("  steps: ", "  steps: many #"))
    Path("other.yaml").write_text(package.read_text().replace("drift", "season"))
    command(*words).is_one_line(2, line)
    assert not cluster.requests


@pytest.mark.parametrize("name", ["training", "retraining"])
@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("verb", ["submit", "schedule"])
def test_a_pipeline_is_compiled_for_the_image(
    name: str, gpu: bool, verb: str, cluster: KfpServer, command: Command
) -> None:
    words = (verb, name) if verb == "submit" else (verb, "nightly", name, "--cron", "0 30 2 * * *")
    outcome = command(*words, *(["--gpu"] if gpu else []), "--image", IMAGE)
    assert outcome.status == 0, outcome.error
    (sent,) = [*cluster.runs.values(), *cluster.schedules.values()]
    committed = Path(__file__).parents[2] / f"pipelines/compiled/{name}-{'gpu' if gpu else 'cpu'}.yaml"
    text = committed.read_text().replace(PLACEHOLDER, IMAGE)
    spec, platform = YAML(typ="safe").load_all(text)
    assert sent["pipeline_spec"] == {"pipeline_spec": spec, "platform_spec": platform}
    params = load_params(PARAMS)
    values = sent["runtime_config"]["parameters"]
    assert set(values) == set(Params.model_fields) - ({"drift"} if name == "training" else set())
    assert all(json.loads(text) == getattr(params, key).model_dump(mode="json") for key, text in values.items())
