"""Training on several nodes: the data is sent to S3, a TrainJob runs to its end, the result is fetched.

Below the staging area, the s3:// prefix of DBRNET_STAGING:

datasets/HASH/      each dataset once, named after its tables
jobs/NAME/given/    a training's inputs: parameters, split, address of the dataset
jobs/NAME/trained/  its outputs
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

from dbrnet.cluster.api import Cluster
from dbrnet.cluster.trainjob import Nodes, render
from dbrnet.data import open_dataset
from dbrnet.data.dataset import CARD_FILE, SAMPLES_FILE
from dbrnet.data.remote_dataset import link_dataset, send_dataset
from dbrnet.errors import JobError, UserError
from dbrnet.files import read_json, sha256_file, write_json
from dbrnet.storage.s3 import MANIFEST, S3Folder, receive_folder, send_folder

log = logging.getLogger(__name__)

PASSED_ON = ("MLFLOW_RUN_ID",)  # environment variables of the job, where they are set
_PARAMS_FILE, _JOB_SPEC_FILE, _SPLIT = "params.json", "job_spec.json", "split"


def train_on_nodes(params: str, dataset: Path, split: Path, *, out: Path, nodes: int, processes: int) -> None:
    """Run `dbrnet train` with `params` (its section, as JSON) in a TrainJob, and fetch its outputs to `out`.

    The job is named after all of its inputs, the image included. So a second call joins a running job, takes
    the result of a finished one, and continues a failed one from its checkpoint. The environment names the
    image (DBRNET_IMAGE, by digest), the staging area (DBRNET_STAGING) and, to train on GPUs, the accelerator
    (DBRNET_ACCELERATOR=nvidia.com/gpu). Raises `UserError` and `JobError` as `Cluster` and `S3Folder` do.
    """
    cluster = Cluster()
    image, staging = os.environ.get("DBRNET_IMAGE", ""), os.environ.get("DBRNET_STAGING", "")
    if "@sha256:" not in image:
        raise UserError(
            f"DBRNET_IMAGE must name the image to train in by its digest, NAME@sha256:..., and is {image!r}"
        )
    if not staging.startswith("s3://"):
        raise UserError(
            "training on several nodes needs a place to send data to: set DBRNET_STAGING to an s3:// prefix"
        )
    request = Nodes(nodes, processes, image, os.environ.get("DBRNET_ACCELERATOR", ""))
    staging = staging.rstrip("/") + "/"
    tables = _digest(sha256_file(dataset / SAMPLES_FILE), sha256_file(dataset / CARD_FILE))
    source = f"{staging}datasets/{tables}/"
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    split_hashes = [sha256_file(path) for path in sorted(split.iterdir())]
    name = f"dbrnet-{_digest(params, tables, *split_hashes, str(request), json.dumps(passed_on))}"
    job_spec = f"{staging}jobs/{name}/"
    if _is_done(job_spec):
        log.info("the train job %s has run before: its result is taken", name)
    else:
        send_dataset(open_dataset(dataset), source)
        send_job_spec(job_spec, params, source, split)
        cluster.submit(render(name, job_spec, request, passed_on))
        try:
            cluster.follow(name)
        except JobError:
            if not _is_done(job_spec):  # sent before the job failed, or another call removed the job
                raise
    receive_folder(f"{job_spec}trained/", out, "train")
    cluster.delete(name)


def send_job_spec(job_spec: str, params: str, source: str, split: Path) -> None:
    """Send what the nodes need: the parameters, the dataset's address `source` and the split."""
    with tempfile.TemporaryDirectory() as given:
        (Path(given) / _PARAMS_FILE).write_text(params)
        write_json(Path(given) / _JOB_SPEC_FILE, {"dataset": source})
        shutil.copytree(split, Path(given) / _SPLIT)
        send_folder(Path(given), f"{job_spec}given/")


def fetch_job_spec(job_spec: str, folder: Path) -> tuple[str, Path, Path]:
    """On a node: the parameters, the dataset (whose images are fetched when they are used) and the split.

    The processes of a node share the dataset's folder.
    """
    given = receive_folder(f"{job_spec}given/", folder / "given", "worker")
    source = read_json(given / _JOB_SPEC_FILE)["dataset"]
    dataset = Path(tempfile.gettempdir()) / f"dbrnet-{_digest(source)}"
    link_dataset(source, dataset)
    return (given / _PARAMS_FILE).read_text(), dataset, given / _SPLIT


def send_result(trained: Path, job_spec: str) -> None:
    """On a node: send what `dbrnet train` wrote to the staging area."""
    send_folder(trained, f"{job_spec}trained/")


def _is_done(job_spec: str) -> bool:
    """Whether the whole result is there: its manifest is sent last."""
    return MANIFEST in S3Folder(f"{job_spec}trained/").sizes()


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
