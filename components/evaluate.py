"""Step 6 as a component."""

from kfp import dsl

from components.component import component


@component
def evaluate(
    params: str,
    dataset: dsl.Input[dsl.Dataset],
    split: dsl.Input[dsl.Artifact],
    trained: dsl.Input[dsl.Model],
    exported: dsl.Input[dsl.Model],
    champion: dsl.Input[dsl.Model],
    evaluated: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    confusion: dsl.Output[dsl.ClassificationMetrics],
    report: dsl.Output[dsl.HTML],
) -> None:
    """Score the exported model, and the champion beside it, on the test split.

    Args:
        params: the section `evaluate` of params.yaml as JSON.
        dataset: what `ingest` wrote.
        split: what `split` wrote.
        trained: what `train` wrote.
        exported: what `export` wrote.
        champion: what `champion` wrote.
        evaluated: metrics.json, images.csv, and the images on which the two disagree most.
        metrics: mIoU with background and over defects, the nearest-neighbour baseline, IoU by class, defects found.
        confusion: pixels by true class (rows) and answered class.
        report: the evaluation's page.
    """
    from pathlib import Path
    from shutil import copyfile

    from dbrnet.cli import call
    from dbrnet.files import read_json

    call(
        "evaluate",
        params,
        dataset=dataset.path,
        split=split.path,
        trained=trained.path,
        exported=exported.path,
        champion=champion.path,
        out=evaluated.path,
    )
    found = read_json(Path(evaluated.path, "metrics.json"))
    figures = {name: figure["value"] for name, figure in found["figures"].items() if "/" not in name}
    figures |= {f"iou_{name}": value for name, value in found["scores"]["iou"].items()}
    figures["look_up_miou"] = found["nn_baseline"]["miou"]
    for name, value in figures.items():
        if value is not None:
            metrics.log_metric(name, value)
    dataset_hash, splits = found["dataset"]["content_hash"], found["split"]
    metrics.metadata |= {"dataset_hash": dataset_hash, "split": f"{splits['kind']}, seed {splits['seed']}"}
    metrics.metadata["leaks"] = splits["leaks"]
    confusion.log_confusion_matrix(["background", *found["colors"]], found["confusion"])
    copyfile(f"{evaluated.path}/report.html", report.path)
