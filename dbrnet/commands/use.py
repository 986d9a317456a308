"""What is done with a dataset or a model in hand: `dbrnet audit`, `predict` and `serve`."""

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, cast

from dbrnet.api import load_model
from dbrnet.commands import USE, Json, app, print_json
from dbrnet.errors import UserError, install_hint
from dbrnet.files import atomic_directory, require_apart

if TYPE_CHECKING:
    from dbrnet.inference.predict import Format

log = logging.getLogger(__name__)


@app.command(group=USE)
def audit(dataset: Path, /, *, out: Path, split: Path | None = None) -> None:
    """Find near-duplicate images, and how many of them cross splits.

    The splits are --split's; without it those in which the dataset was published, where it was. Writes
    audit.json, links.csv (the evidence for each pair) and audit.html, which opens offline, under --out.

    For example:

        dbrnet audit data/dataset --out audit
        dbrnet audit data/dataset --split data/split --out audit

    Args:
        dataset: the folder that `dbrnet ingest` wrote
        out: the folder to write: new, empty, or one that this command wrote before, whose files it replaces
        split: the folder that `dbrnet split` wrote
    """
    from dbrnet.audit.result import audit_splits, search
    from dbrnet.data import open_dataset
    from dbrnet.data.split import Split
    from dbrnet.reports.audit_page import PAGE, write_audit

    data = open_dataset(dataset)
    splits = Split.load(split).ids if split else data.published_splits
    result = audit_splits(search(data), splits)
    with atomic_directory(out, "audit") as folder:
        write_audit(result, folder)
    result.log()
    log.info("page: %s", out / PAGE)


@app.command(group=USE)
def predict(
    sources: list[str],
    /,
    *,
    model: str,
    out: Path,
    runtime: str | None = None,
    batch: int = 1,
    formats: str = "masks,overlays",
    bit_depth: int = 16,
    json: Json = False,
) -> None:
    """Predict images and the frames of videos, each at its own size.

    A folder stands for all images and videos in it and in its folders. Writes under --out, as --formats
    says: masks/ (PNG of class ids), overlays/ (JPEG), submission.csv (Severstal's run-length encoding) and
    coco.json (one annotation a defect); and always summary.csv, each class's share of every image. The
    tables come last. An image that cannot be read is passed over and named at the end (exit status 1).

    For example:

        dbrnet predict photos/ --model artifacts/export/model.onnx --out predictions
        dbrnet predict line.mp4 --model models:/dbrnet@champion --formats rle,coco --out predictions

    Args:
        sources: images, folders of them, quoted globs, videos, s3://BUCKET/PREFIX/
        model: an exported .onnx, a model.pt, or models:/NAME@ALIAS or models:/NAME/VERSION in MLflow
        out: the folder to write: new, empty, or of an earlier prediction, whose other masks and overlays stay
        runtime: the runtime to run it in, such as openvino-int8; without it the usual one of its kind
        batch: how many images of one size are predicted together, for speed
        formats: what to write, of masks, overlays, rle, coco, with commas between
        bit_depth: how many bits of its 16 the camera uses, as in ingest.bit_depth
    """
    from dbrnet.inference.images import find_sources
    from dbrnet.inference.predict import FORMATS, MASKS, OVERLAYS, predict_sources

    chosen = [word.strip() for word in formats.split(",")]
    for word in chosen:
        if word not in FORMATS:
            raise UserError(f"--formats: there is no format {word!r}; choose of {', '.join(FORMATS)}")
    if batch < 1:
        raise UserError(f"--batch is {batch}; it must be at least 1")
    if not 8 <= bit_depth <= 16:
        raise UserError(f"--bit-depth is {bit_depth}; it must be from 8 to 16")
    for word in [*sources, model]:
        require_apart(out, Path(word), "the input", may_lie_inside=True)
    with tempfile.TemporaryDirectory() as scratch:
        network = load_model(model, runtime)
        found = find_sources(sources, Path(scratch) / "sources", leave_out=[out / MASKS, out / OVERLAYS])
        kinds = frozenset(cast("list[Format]", chosen))
        count = predict_sources(network, found, out, formats=kinds, batch=batch, bit_depth=bit_depth)
    log.info("%d images predicted by %s; written under %s, the tables last", count, network.runtime, out)
    if json:
        print_json({"images": count, "runtime": network.runtime, "model": model, "out": str(out)})


@app.command(group=USE)
def serve(
    *,
    model: str,
    runtime: str | None = None,
    threads: int = 0,
    host: str = "127.0.0.1",
    port: int = 8080,
    queue: int = 32,
    max_mb: int = 20,
) -> None:
    """Answer images over HTTP: masks, defects, health, metrics, and a page to try it on.

    The model is loaded and warmed up before the port is opened. Ctrl-C or SIGTERM stops it when what is
    queued has been answered. Binds to localhost by default.

    For example:

        dbrnet serve --model artifacts/export/model.onnx
        dbrnet serve --model models:/dbrnet@champion --host 0.0.0.0 --port 80

    Args:
        model: an exported .onnx, a model.pt, or models:/NAME@ALIAS or models:/NAME/VERSION in MLflow
        runtime: the runtime to run it in, such as openvino-int8; without it the usual one of its kind
        threads: how many of the CPU's threads the model may use; 0 for all
        host: the address to listen on; 0.0.0.0 for all of this machine's
        port: the port to listen on; 0 for any that is free
        queue: how many images may wait or be worked on; more are answered 503
        max_mb: the largest image file, in MiB
    """
    if queue < 1 or max_mb < 1 or threads < 0:
        raise UserError("--queue and --max-mb must be at least 1, and --threads 0 or more")
    try:
        from dbrnet.serving.app import create_app
        from dbrnet.serving.server import bind, own_hosts, run
        from dbrnet.serving.worker import Worker
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; {install_hint('serve')}") from None
    listener = bind(host, port)
    worker = Worker(lambda: load_model(model, runtime, threads or None), queue)
    service = create_app(
        worker,
        model_name=model if model.startswith("models:/") else Path(model).name,
        max_bytes=max_mb * 2**20,
        hosts=own_hosts(listener.getsockname()[0]),
    )
    run(service, worker, listener)
