"""The steps as Kubeflow Pipelines components.

The inputs come from the registry of steps. Here stands what a component adds: the outputs that Kubeflow shows.
"""

from pathlib import Path
from shutil import copyfile

from kfp import dsl

from components.from_step import component, step_component
from dbrnet import records
from dbrnet.steps import BY_NAME

__all__ = [step.identifier for step in BY_NAME.values()]


@component
def revision(params: str) -> str:
    """Tell what the data's source holds, from its list of files alone.

    Ingestion takes the answer as a parameter, so that Kubeflow's cache takes a source that changed for a new
    one, and a source that did not costs one look at its list.

    Args:
        params: the section `ingest` of params.yaml as JSON.

    Returns:
        64 hex digits, others as soon as a file is added, removed or replaced.
    """
    from dbrnet.cli import call

    return str(call("revision", params))


@step_component
def ingest(revision: str, dataset: dsl.Output[dsl.Dataset]) -> None:
    """Read a dataset from a folder, an archive, a URL or S3 into one canonical form.

    Args:
        revision: what the source holds, from the component `revision`; a part of the cache's key.
        dataset: images/, masks/, samples.csv, card.json; the card's figures are its metadata.
    """
    from dbrnet.data.dataset import Dataset

    card = Dataset.load(Path(dataset.path)).card
    dataset.metadata |= {"title": card.title, "content_hash": card.content_hash}
    dataset.metadata |= {"images": card.images, "groups": card.groups, "revision": revision}


@step_component
def split(split: dsl.Output[dsl.Artifact], report: dsl.Output[dsl.HTML]) -> None:
    """Find near-duplicate images, and divide the samples into train, val and test without a leak.

    Args:
        split: split.csv, split.json, audit.json, links.csv.
        report: the audit's page: the groups of near-duplicates, and what a split of them would leak.
    """
    copyfile(f"{split.path}/audit.html", report.path)


@step_component
def train(checkpoints: str, trained: dsl.Output[dsl.Model], metrics: dsl.Output[dsl.Metrics]) -> None:
    """Train DBRNet, tracked in MLflow; killed and tried again, it resumes from its last checkpoint.

    Joins the MLflow run that MLFLOW_RUN_ID names, as Kubeflow's own MLflow plugin sets it.

    Args:
        checkpoints: a folder that outlives the pod, such as a mounted volume.
        trained: model.pt, history.csv, train.json (the lineage that later steps carry on).
        metrics: the iteration whose weights were kept, and their mIoU on the validation split.
    """
    training = records.TrainRecord.load(Path(trained.path)).training
    metrics.log_metric("chosen_step", training.chosen_step)
    metrics.log_metric("val_miou", training.val_miou)


@step_component
def export(exported: dsl.Output[dsl.Model]) -> None:
    """Write the trained network as one ONNX file, raw image in and class ids out, and in int8 as another.

    Args:
        exported: model.onnx, model-int8.onnx, export.json.
    """
    files = records.ExportRecord.load(Path(exported.path))
    exported.metadata |= {"model_file": files.model_file, "model_sha256": files.model_sha256, "bytes": files.bytes}


@step_component
def fetch_champion(champion: dsl.Output[dsl.Model]) -> None:
    """Fetch the champion from the registry: the model that a candidate is compared with.

    Never cached, since the registry may have moved on. Where the candidate is the champion already, the one
    before it is fetched.

    Args:
        champion: champion.json and, where there is a champion, its model and what it was trained on.
    """
    found = records.ChampionRecord.load(Path(champion.path))
    champion.metadata["model_name"] = found.model_name
    if found.version is not None:
        champion.metadata["version"] = found.version


@step_component
def evaluate(
    evaluated: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Score the exported model, and the champion beside it, on the test split.

    Args:
        evaluated: metrics.json, images.csv, and the images on which the two disagree most.
        metrics: mIoU with background and over defects, the nearest-neighbour baseline, IoU by class, defects found.
        confusion: pixels by true class (rows) and predicted class.
        report: the evaluation's page.
    """
    evaluation = records.EvaluationRecord.load(Path(evaluated.path))
    figures = {name: figure.value for name, figure in evaluation.figures.items() if "/" not in name}
    figures |= {f"iou_{name}": value for name, value in evaluation.scores.iou.items()}
    figures["nn_baseline_miou"] = evaluation.nn_miou
    for name, value in figures.items():
        if value is not None:
            metrics.log_metric(name, value)
    metrics.metadata["dataset_hash"] = evaluation.dataset.content_hash
    metrics.metadata |= {"split": evaluation.split.text, "leaks": evaluation.split.leaks}
    confusion.log_confusion_matrix(["background", *evaluation.colors], [list(row) for row in evaluation.confusion])
    copyfile(f"{evaluated.path}/report.html", report.path)


@step_component
def benchmark(benchmarked: dsl.Output[dsl.Artifact], metrics: dsl.Output[dsl.Metrics]) -> None:
    """Measure the speed on this machine, in every runtime that it has, in turns with the champion.

    Never cached: a speed belongs to the machine that it was measured on.

    Args:
        benchmarked: benchmark.json, durations.csv, latency.png, speed-accuracy.png.
        metrics: frames per second and latencies by runtime.
    """
    speed = records.BenchmarkRecord.load(Path(benchmarked.path))
    for runtime, latency in speed.runtimes.items():
        metrics.log_metric(f"{runtime}_fps", latency.fps)
        metrics.log_metric(f"{runtime}_p50_ms", latency.p50_ms)
        metrics.log_metric(f"{runtime}_p99_ms", latency.p99_ms)
    metrics.metadata["cpu"] = speed.provenance.hardware.cpu


@step_component
def promote(decision: dsl.Output[dsl.Artifact], review: dsl.Output[dsl.HTML], card: dsl.Output[dsl.Markdown]) -> str:
    """Decide by the measured figures, register the model, and move the champion if it passes.

    Never cached: the registry may have moved on.

    Args:
        decision: decision.json: every criterion, its figure, its threshold and its verdict.
        review: the decision's page.
        card: the model card.

    Returns:
        promoted, needs review, or rejected.
    """
    copyfile(f"{decision.path}/review.html", review.path)
    copyfile(f"{decision.path}/model-card.md", card.path)
    promotion = records.DecisionRecord.load(Path(decision.path)).promotion
    decision.metadata |= {"version": promotion.version, "answer": promotion.answer}
    return promotion.answer


@step_component
def drift(drifted: dsl.Output[dsl.Artifact], reasons: dsl.Output[dsl.Markdown]) -> str:
    """Answer whether the data has changed enough since the champion was trained to train again.

    Args:
        drifted: drift.json and drift.png: each feature's distributions, then and now.
        reasons: the answer, and why.

    Returns:
        yes or no.
    """
    found = records.DriftRecord.load(Path(drifted.path))
    why = found.reasons or [check.text for check in found.checks]
    lines = [f"# Is retraining warranted? {found.answer}", "", *(f"- {line}" for line in why)]
    Path(reasons.path).write_text("\n".join([*lines, *(f"- note: {note}" for note in found.notes), ""]))
    return found.answer


@component
def notify(pipeline: str, params: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Tell the webhook in DBRNET_NOTIFY_URL how the run ended, and who is champion; without one, the log.

    Args:
        pipeline: the pipeline's name.
        params: the section `fetch_champion` of params.yaml as JSON.
        status: how the run ended.
    """
    from dbrnet.cli import call

    call("notify", params, run=pipeline, state=status.state, error=status.error_message)
