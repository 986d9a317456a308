"""`dbrnet serve`: a trained model behind an HTTP address."""

import tempfile
from pathlib import Path

from dbrnet.errors import UserError
from dbrnet.inference.runtimes.base import Model
from dbrnet.inference.runtimes.registry import open_model
from dbrnet.registry.model_file import find_model_file


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
    queued has been answered. Only this machine is listened to unless --host says otherwise (0.0.0.0: all).
    """
    if queue < 1 or max_mb < 1 or threads < 0:
        raise UserError("--queue and --max-mb must be at least 1, and --threads 0 or more")
    try:
        from dbrnet.serving.app import create_app
        from dbrnet.serving.server import bind, own_hosts, run
        from dbrnet.serving.worker import Worker
    except ImportError as error:
        raise UserError(f"{error.name} is not installed; pip install 'dbrnet[serve]'") from None
    listener = bind(host, port)
    worker = Worker(lambda: _open(model, runtime, threads or None), queue)
    app = create_app(
        worker,
        model_name=model if model.startswith("models:/") else Path(model).name,
        max_bytes=max_mb * 2**20,
        hosts=own_hosts(listener.getsockname()[0]),
    )
    run(app, worker, listener)


def _open(model: str, runtime: str | None, threads: int | None) -> Model:
    if not model.startswith("models:/"):
        return open_model(Path(model), runtime, threads)  # nothing is written to the disk
    with tempfile.TemporaryDirectory() as scratch:
        return open_model(find_model_file(model, Path(scratch)), runtime, threads)
