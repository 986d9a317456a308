"""Provenance of an artifact: the revisions of code and data, the versions of libraries, and the machine."""

import hashlib
import json
import os
import platform
import subprocess
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dbrnet.addresses import redact
from dbrnet.records import DataRevision, Hardware, Provenance

LIBRARIES = (
    *("dbrnet", "torch", "onnx", "onnxruntime", "openvino"),
    *("numpy", "opencv-python-headless", "mlflow-skinny"),
)
REVISION_VARIABLE = "DBRNET_REVISION"  # set where the code runs without its repository, as in an image


def collect_provenance() -> Provenance:
    """Code revision, versions and hardware, as every step writes them next to its figures."""
    return Provenance(code_revision=code_revision(), versions=versions(), hardware=hardware())


def code_revision() -> str | None:
    """The commit of this code, with `-dirty` where tracked files differ; None outside a repository.

    The environment variable DBRNET_REVISION goes first: a container image does not hold the repository.
    """
    if given := os.environ.get(REVISION_VARIABLE):
        return given
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():  # installed elsewhere: a repository around it belongs to another project
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip() or None


def computing_digest() -> str:
    """One hash of everything that computes: the package's source, the libraries' versions, the accelerators."""
    package, digest = Path(__file__).resolve().parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        source = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(package)}\0{source}\n".encode())
    digest.update(json.dumps([versions(), hardware().gpus]).encode())
    return digest.hexdigest()


def data_revision(dataset: Path, project: Path) -> DataRevision:
    """The hash that DVC has of the folder `dataset`, and the source that it was made from.

    Both are read from dvc.lock in `project`, whose entries DVC writes as soon as a stage ends, and from the source's
    .dvc file. Nothing is known where DVC did not make the folder as it is now: the folder is hashed again, because the
    lock may be of an earlier run. Addresses are redacted.
    """
    for stage in _yaml(project / "dvc.lock").get("stages", {}).values():
        hashes = {(project / out["path"]).resolve(): out.get("md5") for out in stage.get("outs", ())}
        recorded = hashes.get(dataset.resolve())
        if recorded and recorded == _dvc_hash(dataset):
            source = _source_revision(stage["deps"][0], project)
            return DataRevision(dataset=recorded, **{key: redact(value) for key, value in source.items()})
    return DataRevision()


def _source_revision(source: dict[str, Any], project: Path) -> dict[str, str]:
    """A stage's first dependency, and the public commit where that is a DVC import."""
    revision = {"source": source["path"], "source_hash": source.get("md5") or source.get("etag") or "unknown"}
    tracked = _yaml(project / f"{source['path'].rstrip('/')}.dvc")
    is_current = bool(tracked) and tracked["outs"][0].get("md5") == revision["source_hash"]
    if is_current and (repo := tracked.get("deps", [{}])[0].get("repo")):
        revision["source_revision"] = f"{repo['url']}@{repo['rev_lock']}"
    return revision


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = YAML(typ="safe").load(path.read_text())
    except (OSError, YAMLError, UnicodeDecodeError):
        return {}
    return content if isinstance(content, dict) else {}


def _dvc_hash(folder: Path) -> str:
    """A folder's hash by DVC's rule: the MD5 of the list of its files' MD5s."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    listed = [
        {"md5": hashlib.md5(files[name].read_bytes(), usedforsecurity=False).hexdigest(), "relpath": name}
        for name in sorted(files)
    ]
    return hashlib.md5(json.dumps(listed).encode(), usedforsecurity=False).hexdigest() + ".dir"


def versions() -> dict[str, str]:
    """The versions of Python and of the libraries that decide the numbers, without importing them."""
    installed = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            installed[name] = metadata.version(name)
    return installed


@cache
def hardware() -> Hardware:
    """The machine that this process runs on."""
    return Hardware(
        cpu=_cpu_model(),
        cores=available_cores(),
        memory_gib=_memory_gib(),
        system=f"{platform.system()} {platform.machine()}",
        gpus=tuple(", ".join(gpu) for gpu in query_gpus("name", "driver_version")),
    )


def available_cores() -> int:
    """The cores that this process may use: the default number of threads of a runtime."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError):
        return None


def query_gpus(*figures: str) -> list[list[str]]:
    """The `figures` of each GPU, under nvidia-smi's names; empty where there is no nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={','.join(figures)}", "--format=csv,noheader"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip().split(", ") for line in output.splitlines() if line.strip()]
