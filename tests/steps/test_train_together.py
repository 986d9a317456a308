"""`torchrun -m dbrnet train`: one voice, one MLflow run, and a worker's death that costs no validation."""

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from ruamel.yaml import YAML

from dbrnet.cli import main
from dbrnet.data.synthetic import generate
from dbrnet.files import read_json
from dbrnet.registry.store import open_store
from tests.registry.servers import free_port

ROOT = Path(__file__).parents[2]
STEPS = 9
VALIDATED = [1, 3, 5, 7, 9]  # the iterations after which there is a validation
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@dataclass
class Project:
    """A folder with params.yaml, a dataset of 32 images and its split, to train in."""

    folder: Path

    def start(self, out: str, *options: str, **environment: str) -> subprocess.Popen[str]:
        """Start torchrun; its output goes to the file `log`, for the eyes of `said`."""
        own = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PET_"))}
        own |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
        command = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "dbrnet", "train"]
        command += ["dataset", "split", "--out", out]
        with (self.folder / f"{out}.log").open("a") as log:
            return subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, text=True, env=own)

    def run(self, out: str, *options: str) -> int:
        return self.start(out, *(options or ("--standalone", "--nproc-per-node", "2"))).wait(400)

    def said(self, out: str) -> list[str]:
        """What was said, without torchrun's own lines."""
        lines = (self.folder / f"{out}.log").read_text().splitlines()
        return [line for line in lines if "torch/distributed/" not in line]

    def told(self, out: str) -> list[str]:
        """The failures that were told."""
        return [line for line in self.said(out) if line.startswith(("error:", "failed:"))]

    def weights(self, out: str) -> dict[str, torch.Tensor]:
        content = torch.load(self.folder / out / "model.pt", weights_only=True)
        weights: dict[str, torch.Tensor] = content["state_dict"]
        return weights

    def history(self, out: str) -> list[dict[str, str]]:
        with (self.folder / out / "history.csv").open(newline="") as file:
            return list(csv.DictReader(file))

    def set(self, **values: object) -> None:
        path = self.folder / "params.yaml"
        params = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
        params["split"]["kind"] = "random"
        # So small that there is a validation every two iterations.
        small = {"steps": STEPS, "crop": [32, 128], "zoom": 0.25, "checkpoint_seconds": 0.001}
        params["train"] |= small | values
        with path.open("w") as file:
            YAML(typ="safe").dump(params, file)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = Project(tmp_path_factory.mktemp("together"))
    made.set()
    generate(made.folder / "data" / "steel-strip", images=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made.folder)
        assert main(["ingest", "--out", "dataset"]) == 0
        assert main(["split", "dataset", "--out", "split"]) == 0
    return made


@pytest.fixture(scope="module")
def uninterrupted(project: Project) -> str:
    assert project.run("uninterrupted") == 0, project.said("uninterrupted")
    return "uninterrupted"


def test_one_speaks_tracks_and_writes(project: Project, uninterrupted: str) -> None:
    told = project.said(uninterrupted)
    iterations = [line.split(":")[0] for line in told if line.startswith("iteration")]
    assert iterations == [f"iteration {step} of {STEPS}" for step in VALIDATED]
    assert told[-1].startswith("weights of iteration")
    assert len(set(told)) == len(told)
    assert [int(row["step"]) for row in project.history(uninterrupted)] == VALIDATED
    lineage = read_json(project.folder / uninterrupted / "train.json")
    assert lineage["training"]["processes"] == 2
    client = open_store(project.folder).client
    experiment = client.get_experiment_by_name("steel-strip")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.run_id for run in runs] == [lineage["run_id"]]
    assert [one.step for one in client.get_metric_history(lineage["run_id"], "loss")] == VALIDATED
    assert not (project.folder / f".{uninterrupted}.checkpoint").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_worker_ends_the_job_which_goes_on_to_the_same_bits(
    project: Project, uninterrupted: str, victim: int
) -> None:
    out = f"killed-{victim}"
    job = project.start(out, "--standalone", "--nproc-per-node", "2")
    checkpoint = project.folder / f".{out}.checkpoint" / "checkpoint.pt"
    while not checkpoint.exists():
        assert job.poll() is None, project.said(out)
        time.sleep(0.01)
    worker(job, victim).send_signal(signal.SIGKILL)
    assert job.wait(120) != 0
    assert f"rank      : {victim} (local_rank: {victim})" in "\n".join(project.said(out))
    assert len(project.told(out)) <= 1  # by the survivor, if it lived to see it
    assert not (project.folder / out).exists()
    assert project.run(out) == 0, project.said(out)
    assert [line for line in project.said(out) if line.startswith("resuming at iteration")]
    expected, found = project.weights(uninterrupted), project.weights(out)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    losses = [[row["loss"] for row in project.history(name)] for name in (out, uninterrupted)]
    assert losses[0] == losses[1]


def worker(job: subprocess.Popen[str], rank: int) -> psutil.Process:
    return next(
        child for child in psutil.Process(job.pid).children(recursive=True) if child.environ().get("RANK") == str(rank)
    )


def test_two_nodes_train_as_one(project: Project, uninterrupted: str) -> None:
    cluster = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1"}
    cluster["PET_MASTER_PORT"] = str(free_port())
    jobs = [project.start("nodes", **cluster, PET_NODE_RANK=str(rank)) for rank in range(2)]
    assert [job.wait(400) for job in jobs] == [0, 0], project.said("nodes")
    expected, found = project.weights(uninterrupted), project.weights("nodes")
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_an_error_is_told_once(project: Project) -> None:
    project.set(batch_size=1)
    assert project.run("small") == 1
    (line,) = project.told("small")
    assert line.startswith("error: a batch of 1 cannot be shared by 2 processes")
    project.set()
    (project.folder / "split").rename(project.folder / "elsewhere")
    assert project.run("missing") == 1
    (line,) = project.told("missing")
    assert "split" in line
