"""`dbrnet worker`: one process of a training on several machines, under torchrun."""

import tempfile
from contextlib import suppress
from pathlib import Path

from dbrnet.cluster.training import fetch_job_spec, send_result
from dbrnet.config import TrainParams
from dbrnet.errors import JobError, UserError
from dbrnet.process_group import process_group
from dbrnet.steps.train import train

TERMINATION_LOG = Path("/dev/termination-log")  # what is written there the pod's status shows


def worker(job_spec: str, *, checkpoints: Path) -> None:
    """Do this process's share of a training that `dbrnet train` submitted, as its TrainJob runs it.

    Fetches the small things that the job_spec at s3://BUCKET/PREFIX/ is made of, and images as they are used;
    the first process sends back what the training wrote. Writes why it failed to where Kubernetes looks.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            params, dataset, split = fetch_job_spec(job_spec, Path(folder))
            trained = Path(folder) / "trained"
            train(TrainParams.model_validate_json(params), dataset, split, out=trained, checkpoints=checkpoints)
            if process_group().first:
                send_result(trained, job_spec)
    except (UserError, JobError) as error:
        with suppress(OSError):
            TERMINATION_LOG.write_text(str(error))
        raise
