"""`dbrnet doctor`: what this machine has, what is missing, and how to get it."""

import os
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from dbrnet import __version__
from dbrnet.addresses import redact
from dbrnet.commands import START, Json, app, print_json
from dbrnet.errors import JobError, UserError, install_hint

SECONDS = 5.0  # that a store has to answer
LOW_DISK, FULL_DISK = 10.0, 1.0  # GB: the demo with its caches needs the first, nothing works below the second
NEEDED = ("torch", "numpy", "onnx", "onnxruntime", "opencv-python-headless", "mlflow-skinny", "pydantic", "cyclopts")
EXTRAS = {  # of pyproject.toml: what each brings, and what for
    "dvc": ("`dvc repro` and `make demo`", ("dvc",)),
    "openvino": ("the openvino runtimes and int8", ("openvino", "nncf")),
    "serve": ("`dbrnet serve`", ("fastapi", "uvicorn", "prometheus-client", "python-multipart")),
    "kubeflow": ("`python -m pipelines`", ("kfp", "kfp-kubernetes", "oras")),
    "nodes": ("training on several nodes", ("kubernetes",)),
}
Status = Literal["ok", "missing", "broken"]
COLORS: dict[Status, int] = {"ok": 32, "missing": 33, "broken": 31}


@dataclass(frozen=True)
class Check:
    """What was looked at. `missing` does without something optional; `broken` needs mending."""

    name: str
    status: Status
    detail: str


@app.command(group=START)
def doctor(*, json: Json = False) -> None:
    """Check versions, runtimes, GPUs, stores and disk, and say how to get what is missing.

    A store is asked only where MLFLOW_TRACKING_URI or AWS_ENDPOINT_URL names one, for a few seconds at most.
    Exit status 1 where something that is needed is broken.

    For example:

        dbrnet doctor
        dbrnet doctor --json
    """
    checks = [*_libraries(), *_runtimes(), *_machine(), *_settings()]
    broken = [check.name for check in checks if check.status == "broken"]
    if json:
        print_json({"dbrnet": __version__, "ok": not broken, "checks": [asdict(check) for check in checks]})
    else:
        colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        width = max(len(check.name) for check in checks)
        for check in checks:
            status = f"{check.status:<8}"
            shown = f"\x1b[{COLORS[check.status]}m{status}\x1b[0m" if colored else status
            print(f"{shown}{check.name:<{width}}  {check.detail}")  # noqa: T201
    if broken:
        raise JobError(f"broken: {', '.join(broken)}")


def _libraries() -> Iterator[Check]:
    yield Check("python", "ok", sys.version.split()[0])
    yield Check("dbrnet", "ok", __version__)
    for name in NEEDED:
        version = _version(name)
        how = "not installed; in the project's folder: pip install -c constraints.txt -e ."
        yield Check(name, "ok" if version else "broken", version or how)
    for extra, (purpose, names) in EXTRAS.items():
        versions = {name: _version(name) for name in names}
        if lacking := [name for name, version in versions.items() if version is None]:
            yield Check(extra, "missing", f"{', '.join(lacking)}, for {purpose}; {install_hint(extra)}")
        else:
            yield Check(extra, "ok", ", ".join(f"{name} {version}" for name, version in versions.items()))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _runtimes() -> Iterator[Check]:
    """Each runtime that export.runtimes may name. Imports them all: a broken installation shows there only."""
    try:
        from dbrnet.inference.runtimes import RUNTIMES, why_not_available
    except (ImportError, OSError) as error:
        yield Check("runtimes", "broken", f"they cannot be imported: {error}")
        return
    for name in RUNTIMES:
        reason = why_not_available(name)
        yield Check(name, "missing" if reason else "ok", (reason or "available").removeprefix(f"{name} is "))


def _machine() -> Iterator[Check]:
    from dbrnet.provenance import hardware

    machine = hardware()
    yield Check("cpu", "ok", f"{machine.cpu}, {machine.cores} cores, {machine.memory_gib} GiB of memory")
    gpus = ", ".join(machine.gpus)
    yield Check("gpu", "ok" if gpus else "missing", gpus or "none that PyTorch finds; training runs on the CPU")
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    status: Status = "broken" if free < FULL_DISK else "missing" if free < LOW_DISK else "ok"
    advice = "" if status == "ok" else f"; the demo needs {LOW_DISK:g} GB"
    yield Check("disk", status, f"{free:.1f} GB free in {Path.cwd()}{advice}")


def _settings() -> Iterator[Check]:
    """The stores that the environment names, and params.yaml."""
    from dbrnet.config import load_params

    uri = redact(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if not uri:
        yield Check("tracking store", "ok", f"{Path.cwd() / 'mlflow.db'}; MLFLOW_TRACKING_URI names no other")
    elif uri.startswith(("http://", "https://")):
        yield _server("tracking store", uri, f"{uri.rstrip('/')}/health", "MLFLOW_TRACKING_URI")
    else:
        yield Check("tracking store", "ok", f"{uri}, a database that was not asked")
    if endpoint := redact(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")):
        yield _server("object store", endpoint, endpoint, "AWS_ENDPOINT_URL")
    path = Path("params.yaml")
    if not path.exists():
        yield Check(str(path), "missing", "not in this folder: steps need it, or another by --params")
        return
    try:
        load_params(path)
        yield Check(str(path), "ok", "valid")
    except UserError as error:
        yield Check(str(path), "broken", str(error))


def _server(name: str, shown: str, address: str, variable: str) -> Check:
    """Whether something answers at `address`, be it a refusal; in bounded time."""
    import urllib.error
    import urllib.request

    reasons: list[str | None] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(address, timeout=SECONDS):  # noqa: S310
                reasons.append(None)
        except urllib.error.HTTPError as error:
            reasons.append(f"answers {error.code} {error.reason}" if error.code >= 500 else None)
        except (OSError, ValueError) as error:
            reasons.append(f"cannot be reached ({getattr(error, 'reason', error)})")

    asking = threading.Thread(target=ask, daemon=True)  # a name server may take longer than the time limit of the rest
    asking.start()
    asking.join(SECONDS)
    reason = reasons[0] if reasons else f"did not answer in {SECONDS:g} s"
    detail = f"{shown} {reason}; see {variable}" if reason else f"{shown} answers"
    return Check(name, "broken" if reason else "ok", detail)
