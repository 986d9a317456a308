"""`dbrnet worker`: one process of a training on several machines, under torchrun."""

import tempfile
from contextlib import suppress
from pathlib import Path

from dbrnet.commands import OPERATE, app
from dbrnet.errors import JobError, UserError
from dbrnet.process_group import process_group

TERMINATION_LOG = Path("/dev/termination-log")  # what is written there the pod's status shows


@app.command(group=OPERATE, show=False)  # TrainJobs run it, nobody else
def worker(job_spec: str, /, *, checkpoints: Path) -> None:
    """Do this process's share of a training that `dbrnet train` submitted, as its TrainJob runs it.

    Fetches the job spec, and images as they are used; the first process sends back what the training wrote.
    Writes why it failed to where Kubernetes looks.

    For example:

        dbrnet worker s3://staging/jobs/train-1/ --checkpoints /checkpoints
        torchrun --nproc-per-node 4 -m dbrnet worker s3://staging/jobs/train-1/ --checkpoints /checkpoints

    Args:
        job_spec: what the training is given, at s3://BUCKET/PREFIX/jobs/NAME/
        checkpoints: where to keep checkpoints, each training its own
    """
    from dbrnet.cluster.training import fetch_job_spec, send_result
    from dbrnet.config import TrainParams
    from dbrnet.steps.train import train

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
