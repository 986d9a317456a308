"""Step 6: the speed of one picture on this machine."""

import logging
from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np

from dbrnet.data.dataset import Dataset
from dbrnet.deployment.benchmark import measure
from dbrnet.deployment.runtimes.catalogue import open_model
from dbrnet.deployment.runtimes.torch_model import TorchModel
from dbrnet.files import atomic_directory, read_json, write_json
from dbrnet.models.complexity import measure as measure_complexity
from dbrnet.models.saved import load_model
from dbrnet.params import BenchmarkParams
from dbrnet.provenance import available_cores, origin

log = logging.getLogger(__name__)


def benchmark(params: BenchmarkParams, dataset: Path, trained: Path, exported: Path, *, out: Path) -> None:
    """Measure the exported model's speed at batch 1, beside PyTorch's, on the hardware there is.

    A real picture in, class ids and confidence out, in FP32; the runtimes take turns. Writes benchmark.json
    (p50, p90, p99 and mean in milliseconds, frames per second, parameters and MACs, hardware) under --out.
    """
    data = Dataset.load(dataset)
    height, width = params.size
    picture = cv2.resize(data.image(data.samples[0]), (width, height), interpolation=cv2.INTER_AREA)
    threads = params.threads or available_cores()
    model, meta = load_model(trained / "model.pt")
    fast = open_model(exported / "model.onnx", threads=threads)
    eager = TorchModel(model, meta, threads=threads)
    runtimes = {"onnxruntime": fast.predict, "pytorch": eager.predict}
    latencies = measure(runtimes, picture.astype(np.uint8)[None], seconds=params.seconds)
    inner_height, inner_width = meta.image_size or params.size
    with atomic_directory(out) as folder:
        write_json(
            folder / "benchmark.json",
            {
                "runtimes": {name: latency.to_dict() for name, latency in latencies.items()},
                "size": [height, width],
                "batch": 1,
                "precision": "fp32",
                "threads": threads,
                "devices": {"onnxruntime": fast.device, "pytorch": str(eager.device)},
                "complexity": asdict(measure_complexity(model, inner_height, inner_width)),
                "model_sha256": read_json(exported / "export.json")["model_sha256"],
                "origin": origin(),
            },
        )
    for name, latency in latencies.items():
        log.info("%s: %.1f frames/s, p50 %.1f ms, p99 %.1f ms (%d runs)",
                 name, latency.fps, latency.p50_ms, latency.p99_ms, latency.runs)  # fmt: skip
