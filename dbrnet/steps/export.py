"""Step 4: one ONNX file, the picture in and the answer out."""

import logging
from pathlib import Path
from typing import Any

from dbrnet.data.dataset import Dataset
from dbrnet.data.split import Split
from dbrnet.deployment.export import OPSET, count_batch_norms, export_onnx
from dbrnet.deployment.parity import measure_parity
from dbrnet.files import atomic_directory, read_json, sha256_file, write_json
from dbrnet.models.saved import load_model
from dbrnet.params import ExportParams
from dbrnet.progress import progress
from dbrnet.provenance import origin

log = logging.getLogger(__name__)


def export(params: ExportParams, dataset: Path, split: Path, trained: Path, *, out: Path) -> None:
    """Write the trained network as one ONNX file and check it against PyTorch on real pictures.

    The graph takes uint8 RGB pictures of any size and batch and answers with class ids and their confidence;
    normalisation is inside. Writes model.onnx and export.json (parity, digest, lineage) under --out.
    """
    data = Dataset.load(dataset)
    samples = Split.load(split).samples(data, "val")[: params.parity_images]
    lineage = read_json(trained / "train.json")
    model, meta = load_model(trained / "model.pt")
    with atomic_directory(out) as folder:
        path = folder / "model.onnx"
        export_onnx(model, meta, path, metadata=_metadata(lineage))
        images = (data.image(sample) for sample in progress(samples, len(samples), "parity"))
        parity = measure_parity(path, model, meta, images)
        write_json(
            folder / "export.json",
            {
                "model_sha256": sha256_file(path),
                "bytes": path.stat().st_size,
                "opset": OPSET,
                "batch_norms_left": count_batch_norms(path),
                "parity": parity.to_dict(),
                "dataset": lineage["dataset"],
                "split": lineage["split"],
                "origin": origin(),
            },
        )
    log.info(
        "model.onnx; parity on %d pictures: largest logit difference %.2g, equal pixels %.6f",
        parity.images, parity.max_logit_difference, parity.equal_pixels,
    )  # fmt: skip


def _metadata(lineage: dict[str, Any]) -> dict[str, str]:
    """What the file says of its own making, beside its classes and input."""
    return {
        "dataset": str(lineage["dataset"]["name"]),
        "dataset_content_hash": str(lineage["dataset"]["content_hash"]),
        "dataset_dvc_hash": str(lineage["dataset"].get("dvc", {}).get("dataset")),
        "split": str(lineage["split"]["kind"]),
        "leaks": str(lineage["split"]["leaks"]),
        "code_revision": str(lineage["origin"]["code_revision"]),
    }
