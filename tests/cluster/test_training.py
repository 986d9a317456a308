"""`train` with nodes above 1, from the pod of the component to S3 and back."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dbrnet.cluster.training import fetch_job_spec, send_result
from dbrnet.config import TrainParams
from dbrnet.data.dataset import Dataset
from dbrnet.data.remote_dataset import link_dataset, send_dataset
from dbrnet.data.split import Split
from dbrnet.data.writer import build_dataset
from dbrnet.errors import JobError, UserError
from dbrnet.files import MARKER
from dbrnet.models.saved import load_model
from dbrnet.steps.split import split as split_step
from dbrnet.steps.train import train
from dbrnet.training import loop
from dbrnet.training.sampling import Sampler
from tests.cluster.conftest import IMAGE
from tests.cluster.kubernetes_stub import JOBS, Json, Stub, condition
from tests.data.conftest import texture, write_image
from tests.registry.servers import free_port
from tests.sections import PARAMS
from tests.storage.s3_server import BUCKET, S3Server

Run = Callable[..., Path]
ROOT = Path(__file__).parents[2]
VALIDATION = 4  # the last of the images, where processes share a training
SMALL = {"steps": 4, "batch_size": 4, "zoom": 1.0, "crop": (32, 32), "focus": 0.5, "paste": 0.5}
TWO_NODES = PARAMS.train.model_copy(update=SMALL | {"nodes": 2})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dataset")
    for seed in range(20):
        write_image(source / f"train_images/p{seed:02}.jpg", texture(64, 96, seed))
    rows = [f"p{number:02}.jpg,{1 + number % 4},{number + 1} 9" for number in range(16)]
    (source / "train.csv").write_text("\n".join(("ImageId,ClassId,EncodedPixels", *rows, "")))
    return build_dataset("severstal", source, out)


@pytest.fixture(scope="module")
def split(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("splits") / "split"
    split_step(PARAMS.split, dataset.root, out=out)
    return out


@pytest.fixture
def pod(stub: Stub, s3: object, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Stub:
    """The component's pod, whose exchange is the test's own."""
    monkeypatch.setenv("DBRNET_IMAGE", IMAGE)
    monkeypatch.setenv("DBRNET_STAGING", f"s3://{BUCKET}/exchange/{abs(hash(request.node.name))}")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return stub


@pytest.fixture
def run(dataset: Dataset, split: Path, tmp_path: Path) -> Run:
    """Trains on two nodes, as the component does; returns the folder that it wrote below the test's own."""

    def run(out: str = "out") -> Path:
        train(TWO_NODES, dataset.root, split, out=tmp_path / out)
        return tmp_path / out

    return run


def job_spec_of(job: Json) -> str:
    return str(job["spec"]["trainer"]["command"][4])


def working(stub: Stub, tmp_path: Path) -> Callable[[Json], None]:
    """Nodes that give back one file, for `on_create`."""

    def work(job: Json) -> None:
        (tmp_path / "trained").mkdir(exist_ok=True)
        (tmp_path / "trained/model.pt").write_bytes(b"weights")
        send_result(tmp_path / "trained", job_spec_of(job))
        job["status"] = {"conditions": [condition("Complete")]}

    return work


def test_a_job_receives_its_inputs_and_returns_its_outputs(
    pod: Stub, dataset: Dataset, split: Path, run: Run, tmp_path: Path
) -> None:
    jobs: list[Json] = []
    work = working(pod, tmp_path)

    def take(job: Json) -> None:
        jobs.append(job)
        work(job)

    pod.on_create = take
    assert (run() / "model.pt").read_bytes() == b"weights"
    (job,) = jobs
    assert (job["spec"]["trainer"]["numNodes"], job["spec"]["trainer"]["image"]) == (2, IMAGE)
    params, linked, splits = fetch_job_spec(job_spec_of(job), tmp_path / "node")
    assert TrainParams.model_validate_json(params) == TWO_NODES
    assert Dataset.load(linked).samples == dataset.samples
    assert Split.load(splits) == Split.load(split)
    assert pod.jobs == {}  # done with


def test_a_second_call_joins_the_running_job(
    pod: Stub, run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dbrnet")
    threading.Thread(target=run, args=("killed",), daemon=True).start()
    while not pod.jobs:
        time.sleep(0.01)
    ((name, job),) = pod.jobs.items()
    again = threading.Thread(target=run)
    again.start()
    while f"joining the train job {name}" not in caplog.text:
        time.sleep(0.01)
    working(pod, tmp_path)(job)
    again.join()
    assert (tmp_path / "out/model.pt").read_bytes() == b"weights"
    assert pod.asked.count(f"POST {JOBS}") == 2
    assert caplog.text.count("submitted the train job") == 1


@pytest.mark.parametrize("lingers", [0, 2], ids=["deleted at once", "leaving slowly"])
def test_a_failed_job_is_replaced_when_it_is_gone(pod: Stub, run: Run, tmp_path: Path, lingers: int) -> None:
    pod.on_create = pod.end("Failed", "JobsFailed", "1 job failed")
    with pytest.raises(JobError, match="failed: JobsFailed: 1 job failed"):
        run()
    (previous,) = pod.jobs
    pod.lingers = lingers
    pod.on_create = working(pod, tmp_path)
    assert (run() / "model.pt").exists()
    assert pod.asked.count(f"DELETE {JOBS}/{previous}") == 2  # the previous, and this one when done


def test_an_existing_result_needs_no_job(pod: Stub, run: Run, tmp_path: Path) -> None:
    """As where the pod of the component was killed after it had fetched it, and is tried again."""
    pod.on_create = working(pod, tmp_path)
    for out in ("first", "second"):
        assert (run(out) / "model.pt").read_bytes() == b"weights"
    assert pod.asked.count(f"POST {JOBS}") == 1


def test_a_finished_job_that_another_call_removed(pod: Stub, run: Run, tmp_path: Path) -> None:
    work = working(pod, tmp_path)

    def take(job: Json) -> None:
        work(job)
        pod.jobs.clear()

    pod.on_create = take
    assert (run() / "model.pt").read_bytes() == b"weights"


def test_another_image_makes_another_job(pod: Stub, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pod.on_create = pod.end("Failed", "JobsFailed")
    for image in (IMAGE, IMAGE, IMAGE.replace(64 * "a", 64 * "b")):
        monkeypatch.setenv("DBRNET_IMAGE", image)
        with pytest.raises(JobError):
            run()
    assert len(pod.jobs) == 2


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DBRNET_IMAGE", "registry.example/dbrnet:latest", "by its digest, NAME@sha256:.*dbrnet:latest"),
        ("DBRNET_STAGING", "", "set DBRNET_STAGING to an s3:// prefix"),
    ],
)
def test_missing_settings_are_named(
    pod: Stub, run: Run, name: str, value: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=expected):
        run()
    assert pod.asked == []


def nodes_of(job: Json, folder: Path) -> None:
    """Kubeflow Trainer, in small: a process a node, with the variables that its torch plugin sets."""
    trainer = job["spec"]["trainer"]
    processes, port = [], str(free_port())
    for rank in range(trainer["numNodes"]):
        command = [str(folder / f"node{rank}") if word == "/checkpoints" else word for word in trainer["command"]]
        launcher = {
            "PET_NNODES": str(trainer["numNodes"]),
            "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
            "PET_NODE_RANK": str(rank),
            "PET_MASTER_ADDR": "127.0.0.1",
            "PET_MASTER_PORT": port,
        }
        temporary = folder / f"tmp{rank}"  # a pod has its own
        temporary.mkdir()
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "torch.distributed.run", *command[1:]],
                env=os.environ | launcher | {"TMPDIR": str(temporary)},
            )
        )
    ended = [process.wait() for process in processes]
    job["status"] = {"conditions": [condition("Failed" if any(ended) else "Complete", "JobsEnded", str(ended))]}


@pytest.mark.slow
def test_two_nodes_train(
    pod: Stub, dataset: Dataset, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("dbrnet.cluster.api.POLL_SECONDS", 1.0)
    pod.on_create = lambda job: threading.Thread(target=nodes_of, args=(job, tmp_path)).start()
    out = run()
    assert sorted(path.name for path in out.iterdir()) == [MARKER, "history.csv", "model.pt", "train.json"]
    model, meta = load_model(out / "model.pt")
    assert meta.classes == dataset.card.classes
    assert not model.training


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_each_process_fetches_only_its_share(s3: S3Server, dataset: Dataset, tmp_path: Path, workers: int) -> None:
    """The first one also those by which it measures how to normalise, here all of the training split."""
    address = f"s3://{BUCKET}/shares/"
    send_dataset(dataset, address)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["tests.cluster.test_training", address, str(tmp_path), str(workers)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=200, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    fetched = [{path.name for path in (tmp_path / rank / "images").glob("[!.]*")} for rank in "01"]
    names = [Path(sample.image).name for sample in dataset.samples]
    training, validation = names[:-VALIDATION], set(names[-VALIDATION:])
    recipe = TWO_NODES
    sampler = Sampler(dataset.samples[:-VALIDATION], seed=recipe.seed, focus=recipe.focus, paste=recipe.paste)
    draws = [sampler.draw(place) for place in range(recipe.steps * recipe.batch_size)[1::2]]
    expected = {training[index] for draw in draws for index in (draw.image, draw.donor) if index is not None}
    assert any(draw.donor is not None for draw in draws)
    assert fetched[1] - validation == expected < set(training)
    assert fetched[0] - validation == set(training)
    assert (fetched[0] | fetched[1]) >= validation
    assert not fetched[0] & fetched[1] & validation


def read_share(address: str, folder: str, workers: str) -> None:
    """One of torchrun's processes: trains for some steps, and keeps what it fetches in FOLDER/RANK."""
    dataset = link_dataset(address, Path(folder) / os.environ["RANK"])
    ids = [sample.id for sample in dataset.samples]
    recipe = TWO_NODES.model_copy(update={"nodes": 1})
    loop.train(
        *(dataset, ids[:-VALIDATION], ids[-VALIDATION:], recipe, Path(folder) / "checkpoint"),
        workers=int(workers),
        checkpoint_seconds=60.0,
    )


if __name__ == "__main__":
    read_share(*sys.argv[1:])
