"""The pipelines on this machine: the same wiring and components, run by Kubeflow's own local runner."""

import re
import sys
import warnings
from pathlib import Path

from kfp import local

from dbrnet.config import Params
from dbrnet.errors import JobError
from pipelines.compiling import PIPELINES
from pipelines.resources import here
from pipelines.sections import sections

CHECKPOINTS = "checkpoints"


def run_local(name: str, params: Params, root: Path) -> None:
    """Run the pipeline `name` in this Python environment, a process a task, artifacts below `root`.

    Runs go to the store that MLFLOW_TRACKING_URI names, or to mlflow.db in this folder, as with the command
    line. Raises `JobError` where a task failed.
    """
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that resources and images mean nothing here
        pipeline = PIPELINES[name](here)
        inputs = pipeline.component_spec.inputs or {}
        try:
            pipeline(**sections(params, inputs), checkpoints=str((root / CHECKPOINTS).absolute()))
        except RuntimeError as error:  # the runner's only word; what went wrong is in the task's log above
            sys.stdout.flush()
            raise JobError(_plain(str(error))) from None


def _plain(text: str) -> str:
    """Without the runner's colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
