"""Versions in MLflow's registry: one for each model file, whoever registers it and however often.

A version is keyed by its model file's SHA-256. Beside the model lie its lineage, its split and the tables of
its images. They allow a fair comparison with a later candidate, and of later images with those that the model
was trained on, without the images themselves.
"""

import hashlib
import re
import shutil
import tempfile
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import mlflow.artifacts
import mlflow.onnx
import numpy as np
import onnx
from google.protobuf.message import DecodeError
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec
from numpy.typing import NDArray

from dbrnet.errors import JobError, UserError
from dbrnet.files import sha256_file
from dbrnet.records import MODEL_FILE
from dbrnet.registry.store import Store, repeatable
from dbrnet.registry.tracking import TrackedRun

LINEAGE = "lineage.json"
NETWORK_TAG = "network_sha256"
TABLES = ("split.csv", "split.json", "card.json", "samples.csv", "image_stats.csv", "images.csv")
EXAMPLE_SIDE = 96  # pixels: the input example is kept as text
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@repeatable
def register(
    store: Store,
    run: TrackedRun,
    model_name: str,
    model: Path,
    *,
    files: Mapping[str, Path],
    tags: Mapping[str, object],
    example: NDArray[np.uint8],
) -> int:
    """The version of the ONNX file `model` under `model_name`, made if there is none yet; its number.

    `files` (name -> path) are kept beside the model; `tags` are its evidence; `example` is a raw image
    [1, H, W, 3], of which a corner becomes the input example. Safe to repeat, to kill, and to call from many
    processes at once. Raises `UserError` where the file is no ONNX model, `JobError` when the store fails.
    """
    try:
        proto = onnx.load(model)
        onnx.checker.check_model(proto)
    except FileNotFoundError:
        raise UserError(f"{model} does not exist; run the export step first") from None
    except (DecodeError, onnx.checker.ValidationError):
        raise UserError(f"{model} is not a sound ONNX model; run the export step again") from None
    digest = sha256_file(model)
    tags = {NETWORK_TAG: network_digest(proto), **tags}
    with store.client_session() as client:
        number = find_version(store, model_name, digest)
        if number is None:
            upload = _upload(client, run, model_name, model, proto, digest, files, example)
            ensure_registered(client, model_name)
            source, named = upload.artifact_location, {"sha256": digest}
            created = client.create_model_version(
                model_name, source, run_id=run.run_id, tags=named, model_id=upload.model_id
            )
            number = min(int(created.version), find_version(store, model_name, digest) or int(created.version))
            if number < int(created.version):  # another process registered the file first
                client.delete_model_version(model_name, created.version)
        known = client.get_model_version(model_name, str(number)).tags
        for key, value in tags.items():
            if known.get(key) != str(value):
                client.set_model_version_tag(model_name, str(number), key, str(value))
    return number


def network_digest(model: onnx.ModelProto) -> str:
    """SHA-256 of what a model computes: its graph and weights without the metadata."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def registered_models(store: Store) -> list[str]:
    """The names of the models in the store, without their ledgers; a store that is not there has none."""
    if not store.is_begun:
        return []
    with store.client_session() as client:
        names = {model.name for model in client.search_registered_models(max_results=1000)}
    return sorted(name for name in names if name.removesuffix(".ledger") not in names - {name})


def find_version(store: Store, model_name: str, digest: str) -> int | None:
    """The version whose model file has the SHA-256 `digest`, or None.

    It is the lowest, so that all agree on it where two processes made one at the same time.
    """
    with store.client_session() as client:
        versions = client.search_model_versions(f"name = '{model_name}' and tags.sha256 = '{digest}'")
    return min((int(version.version) for version in versions), default=None)


def fetch_model(uri: str, destination: Path, *, store: Store, file: str = MODEL_FILE) -> Path:
    """Download `models:/NAME@ALIAS` or `models:/NAME/VERSION` into `destination`: its model, or the `file` beside it.

    The model's SHA-256 is checked against the version's tag. Raises `UserError` for an address that is not one or
    names nothing in the store, or a version without that file, `JobError` when the store fails or its model is not the
    registered one.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise UserError(f"{uri!r} is not a registered model; write models:/NAME@ALIAS or models:/NAME/VERSION")
    name, number = match["name"], match["version"]
    with store.client_session() as client:
        try:
            if number is None:
                aliases = client.get_registered_model(name).aliases
                number = aliases.get(match["alias"])
                if number is None:
                    known = ", ".join(sorted(aliases)) or "none yet"
                    raise UserError(f"{uri}: {name} has no such alias in {store}; its aliases: {known}")
            version = client.get_model_version(name, str(number))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(f"{uri}: there is no such model in {store}; promote one first") from None
    fetch_files(store, version.name, int(version.version), destination, [file])
    if not (destination / file).exists():
        raise UserError(f"{uri}: version {version.version} has no {file}; another version or program registered it")
    return destination / file


def fetch_files(
    store: Store, model_name: str, number: int, destination: Path, names: Collection[str]
) -> dict[str, str]:
    """Download files of a version into `destination`, the model checked; the version's tags.

    A file that the version does not have is left out, but for the model: that is a `JobError`.
    """
    destination.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=destination, prefix=".fetch.", suffix=".partial") as partial,
        store.client_session() as client,
    ):
        version = client.get_model_version(model_name, str(number))
        location = client.get_model_version_download_uri(model_name, str(number))
        stored = mlflow.artifacts.list_artifacts(artifact_uri=location, tracking_uri=store.uri)
        available = {Path(file.path).name for file in stored}
        for name in names:
            if name != MODEL_FILE and name not in available:
                continue
            address = f"{location}/{name}"
            fetched = Path(mlflow.artifacts.download_artifacts(address, dst_path=partial, tracking_uri=store.uri))
            if name == MODEL_FILE and sha256_file(fetched) != version.tags.get("sha256", sha256_file(fetched)):
                raise JobError(
                    f"models:/{model_name}/{number}: the stored file is not the one that was registered "
                    "(its SHA-256 differs)"
                )
            fetched.replace(destination / name)
        return dict(version.tags)


def describe_version(store: Store, model_name: str, number: int) -> dict[str, str]:
    """A version's tags and its training's run. Raises `UserError` as `get_version`."""
    version = get_version(store, model_name, number)
    made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    tags = dict(sorted(version.tags.items()))
    return {"registered": f"{made:%Y-%m-%d %H:%M} UTC", **tags, "run": version.run_id or "-"}


def network_of(store: Store, model_name: str, number: int) -> str | None:
    """The digest of a version's network, if it was registered with one. Raises `UserError` as `get_version`."""
    return get_version(store, model_name, number).tags.get(NETWORK_TAG)


def get_version(store: Store, model_name: str, number: int) -> ModelVersion:
    """The version in MLflow. Raises `UserError` where there is none of that number."""
    with store.client_session() as client:
        try:
            return client.get_model_version(model_name, str(number))
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise UserError(f"{model_name} has no version {number} in {store}") from None


def _upload(
    client: MlflowClient,
    run: TrackedRun,
    name: str,
    path: Path,
    proto: onnx.ModelProto,
    digest: str,
    files: Mapping[str, Path],
    example: NDArray[np.uint8],
) -> Any:
    """The files in MLflow's store, as a logged model of the run. Resumes an interrupted upload."""
    uploads = client.search_logged_models([run.experiment_id], f"tags.sha256 = '{digest}'")
    logged = next((model for model in uploads if model.source_run_id == run.run_id), None)
    if logged is None:
        logged = client.create_logged_model(
            run.experiment_id, name=name, source_run_id=run.run_id, tags={"sha256": digest}
        )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        mlflow.onnx.save_model(
            proto,
            folder,
            mlflow_model=Model(run_id=run.run_id, model_id=logged.model_id, signature=_signature(proto)),
            pip_requirements=mlflow.onnx.get_default_pip_requirements(),  # inferring them would run the model
            input_example=example[:, :EXAMPLE_SIDE, :EXAMPLE_SIDE],
            save_as_external_data=False,
        )
        shutil.copyfile(path, folder / MODEL_FILE)  # the very bytes, so that the digest holds
        for file, source in files.items():
            shutil.copyfile(source, folder / file)
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    return logged


def ensure_registered(client: MlflowClient, name: str) -> None:
    """Make the registered model `name` where it is not there yet."""
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _signature(proto: onnx.ModelProto) -> ModelSignature:
    def spec(value: onnx.ValueInfoProto) -> TensorSpec:
        tensor = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        shape = [size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim]
        return TensorSpec(dtype, shape, value.name)

    initializers = {tensor.name for tensor in proto.graph.initializer}
    inputs = [spec(value) for value in proto.graph.input if value.name not in initializers]
    return ModelSignature(Schema(inputs), Schema([spec(value) for value in proto.graph.output]))
