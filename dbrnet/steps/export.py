"""Step 4: one ONNX file, the image in and the answer out, and the same in int8."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from dbrnet.config import ExportParams
from dbrnet.data import open_dataset
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import Split, require_trained_on
from dbrnet.errors import UserError
from dbrnet.evaluation.predictions import evaluate
from dbrnet.files import atomic_directory, sha256_file
from dbrnet.inference.export import OPSET, count_batch_norms, export_onnx
from dbrnet.inference.quantize import TooLossyError, quantize
from dbrnet.inference.runtimes import file_of
from dbrnet.inference.runtimes.base import Model, NotAvailableError
from dbrnet.models.saved import load_model
from dbrnet.provenance import collect_provenance
from dbrnet.records import INT8_FILE, MODEL_FILE, WEIGHTS_FILE, ExportRecord, Int8Facts, TrainRecord, format_value

log = logging.getLogger(__name__)


def export(params: ExportParams, dataset: Path, split: Path, trained: Path, *, out: Path) -> None:
    """Write the trained network as one ONNX file, and in int8 as another.

    The graph takes uint8 RGB images of any size and batch and answers with class ids and their confidence;
    normalisation is inside. Writes model.onnx, model-int8.onnx (where OpenVINO and NNCF are installed: with
    as many convolutions in int8 as the budget on the val split allows) and export.json (what each runtime
    takes, digests, what int8 costs, lineage) under --out.
    """
    data, splits, train = open_dataset(dataset), Split.load(split), TrainRecord.load(trained)
    require_trained_on(train, data, split)
    model, meta = load_model(trained / WEIGHTS_FILE)
    with atomic_directory(out, "export") as folder:
        path = folder / MODEL_FILE
        export_onnx(model, meta, path, metadata=_metadata(train))
        log.info("%s: %.1f MB", path.name, path.stat().st_size / 1e6)
        int8, no_int8 = _quantize(params, data, splits, folder)
        deployed = folder / file_of(params.runtimes[0])
        if not deployed.exists():
            raise UserError(
                f"{params.runtimes[0]}, the first of export.runtimes, runs in production, and there is no "
                f"file for it: {no_int8}"
            )
        ExportRecord(
            runtimes=params.runtimes,
            model_file=deployed.name,
            model_sha256=sha256_file(deployed),
            bytes=deployed.stat().st_size,
            opset=OPSET,
            batch_norms_left=count_batch_norms(path),
            int8=int8,
            no_int8=no_int8,
            dataset=train.dataset,
            split=train.split,
            provenance=collect_provenance(),
        ).save(folder)


def _quantize(params: ExportParams, data: Dataset, splits: Split, folder: Path) -> tuple[Int8Facts | None, str | None]:
    """Write model-int8.onnx; its facts, or the reason why there is none."""
    if "openvino-int8" not in params.runtimes:
        return None, "openvino-int8 is not among export.runtimes"
    validation = [sample.id for sample in splits.samples(data, "val")]

    def score(model: Model, ids: Sequence[str]) -> tuple[float, list[float]]:
        evaluation = evaluate(model.predict, data, ids, label="validate int8")
        return evaluation.scores.miou, [image.scores.pixel_accuracy for image in evaluation.images]

    training = splits.samples(data, "train")
    chosen = training[:: -(-len(training) // params.calibration_images)]  # from all over the list
    path = folder / INT8_FILE
    try:
        quantized = quantize(
            folder / MODEL_FILE,
            path,
            calibration=[data.image(sample) for sample in chosen],
            validation=validation,
            score=score,
            max_loss=params.max_int8_loss,
        )
    except (NotAvailableError, TooLossyError) as error:
        log.info("no int8: %s", error)
        return None, str(error)
    with_all = format_value(-quantized.loss_of_all, "points")
    log.info(
        "%s: %d of %d convolutions in int8, mIoU %s on the val split%s",
        path.name,
        quantized.convolutions - len(quantized.kept),
        quantized.convolutions,
        format_value(-quantized.loss, "points"),
        f" ({with_all} with all)" if quantized.loss < quantized.loss_of_all else "",
    )
    return Int8Facts(**asdict(quantized), max_loss=params.max_int8_loss, sha256=sha256_file(path)), None


def _metadata(train: TrainRecord) -> dict[str, str]:
    """The file's lineage, beside its classes and input."""
    return {
        "dataset": train.dataset.name,
        "dataset_content_hash": train.dataset.content_hash,
        "dataset_dvc_hash": str(train.dataset.dvc.dataset),
        "split": train.split.kind,
        "leaks": train.split.leaks,
        "val_miou": f"{train.training.val_miou:.4f}",
        "code_revision": str(train.provenance.code_revision),
    }
