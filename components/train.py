"""Step 3 as a component."""

from kfp import dsl

from components.component import component


@component
def train(
    params: str,
    checkpoints: str,
    dataset: dsl.Input[dsl.Dataset],
    split: dsl.Input[dsl.Artifact],
    trained: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train DBRNet, tracked in MLflow; killed and tried again, it goes on from its last checkpoint.

    Joins the MLflow run that MLFLOW_RUN_ID names, as Kubeflow's own MLflow plugin sets it.

    Args:
        params: the section `train` of params.yaml as JSON.
        checkpoints: a folder that outlives the pod, such as a mounted volume.
        dataset: what `ingest` wrote.
        split: what `split` wrote.
        trained: model.pt, history.csv, train.json (the lineage that later steps carry on).
        metrics: the best epoch, and its mIoU on the validation split.
    """
    from pathlib import Path

    from dbrnet.cli import call
    from dbrnet.files import read_json

    call("train", params, dataset=dataset.path, split=split.path, out=trained.path, checkpoints=checkpoints)
    training = read_json(Path(trained.path, "train.json"))["training"]
    for name in ("best_epoch", "best_val_miou"):
        metrics.log_metric(name, training[name])
