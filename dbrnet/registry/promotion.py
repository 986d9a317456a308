"""A decision carried out in MLflow's model registry, and models fetched from it.

A version is keyed by its model file's SHA-256: the same model twice is one version. Everything about a
version is written before the alias moves, and every write may be repeated, so a promotion that is killed
at any point and run again ends where an undisturbed one does, and there is a champion at every moment.
"""

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow.artifacts
import mlflow.onnx
import numpy as np
import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from dbrnet.errors import JobError, UserError
from dbrnet.files import sha256_file
from dbrnet.registry.gate import Answer, Decision
from dbrnet.registry.tracking import Store, TrackedRun

CHAMPION = "champion"
_URI = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>\d+))")


@dataclass(frozen=True)
class Promotion:
    """What became of a candidate: its version, and who was champion before and after."""

    answer: Answer
    model_name: str
    version: int
    champion_before: int | None
    champion_after: int | None
    reasons: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The outcome in one line."""
        own = f"{self.model_name} version {self.version}"
        if self.answer == "promoted":
            if self.champion_before == self.version:
                return f"promoted: {own} was the champion already and stays"
            before = "none" if self.champion_before is None else f"version {self.champion_before}"
            return f"promoted: {own} is the champion now (before: {before})"
        if self.champion_after is None:
            stays = "there is no champion"
        else:
            stays = f"version {self.champion_after} stays champion"
        return f"rejected: {own}: {'; '.join(self.reasons)} ({stays})"

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values."""
        return {
            "answer": self.answer,
            "model_name": self.model_name,
            "version": self.version,
            "champion_before": self.champion_before,
            "champion_after": self.champion_after,
            "reasons": list(self.reasons),
        }


def promote(
    decision: Decision,
    onnx_path: Path,
    *,
    model_name: str,
    run: TrackedRun,
    evidence: Mapping[str, object],
) -> Promotion:
    """Register the model as a version of `model_name`, write the decision on it, move the alias if it passed.

    `evidence` (dataset hash, split kind, leaks) and the decision's figures become tags of the version, beside
    `sha256`, `decision`, `reasons` (when rejected) and `replaced` (the champion it took over from).

    A rejection moves no alias. So the champion itself, decided anew and rejected, stays champion: it keeps
    the tags it was promoted with (a champion is never tagged rejected) and says so in the tag `recheck`, in
    its description and in the answer's reasons. Raises `JobError` when the store fails, `UserError` when the
    file is not an ONNX model.
    """
    digest, proto = _read_model(onnx_path)
    with run.store.asked() as client:
        version = _find_version(client, model_name, digest)
        if version is None:
            version = _register(client, model_name, run, onnx_path, proto, digest)
        number = int(version.version)
        before = _champion(client, model_name)
        reasons = tuple(decision.reasons)
        tags: dict[str, str | None]
        if decision.answer == "rejected" and before == number:
            note = f"version {number} stays champion all the same: a rejection moves no alias"
            tags = {"recheck": f"failed: {'; '.join(reasons)}"}
            reasons = (*reasons, note)
        else:
            note = None
            tags = {key: str(value) for key, value in evidence.items()}
            tags |= {c.name: c.texts[0] if c.figure is None else repr(c.figure) for c in decision.criteria}
            tags |= {"recheck": None, "reasons": "; ".join(reasons) or None}
            if decision.answer == "promoted" and before not in (None, number):
                tags["replaced"] = str(before)
            tags["decision"] = decision.answer
        _write(client, version, tags, _description(decision, evidence, note))
        after = before
        if decision.answer == "promoted" and before != number:
            client.set_registered_model_alias(model_name, CHAMPION, str(number))
            after = number
    return Promotion(decision.answer, model_name, number, before, after, reasons)


def fetch_model(uri: str, destination: Path, *, store: Store) -> Path:
    """Download the ONNX file of `models:/NAME@ALIAS` or `models:/NAME/VERSION` to `<destination>/model.onnx`.

    The file's SHA-256 is checked against the version's tag. Raises `UserError` for an address that is not
    one or names nothing in the store, `JobError` when the store fails or its file is not the registered one.
    """
    match = _URI.fullmatch(uri)
    if match is None:
        raise UserError(
            f"{uri!r} is not a registered model; write models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    destination.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=destination, prefix=".fetch.", suffix=".partial") as partial,
        store.asked() as client,
    ):
        version = _resolve(client, match, store)
        location = client.get_model_version_download_uri(version.name, str(version.version))
        fetched = Path(
            mlflow.artifacts.download_artifacts(
                artifact_uri=f"{location}/model.onnx", dst_path=partial, tracking_uri=store.uri
            )
        )
        expected = version.tags.get("sha256")
        if expected is not None and sha256_file(fetched) != expected:
            raise JobError(f"{uri}: the stored file is not the one that was registered (its SHA-256 differs)")
        return fetched.replace(destination / "model.onnx")


def _read_model(path: Path) -> tuple[str, onnx.ModelProto]:
    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the export step first") from None
    except (DecodeError, onnx.checker.ValidationError):
        raise UserError(f"{path} is not a sound ONNX model; run the export step again") from None
    return sha256_file(path), proto


def _find_version(client: MlflowClient, name: str, digest: str) -> ModelVersion | None:
    versions = client.search_model_versions(f"name = '{name}' and tags.sha256 = '{digest}'")
    return min(versions, key=lambda version: int(version.version), default=None)


def _register(
    client: MlflowClient, name: str, run: TrackedRun, path: Path, proto: onnx.ModelProto, digest: str
) -> ModelVersion:
    """A new version, tagged with its digest from its first moment; an upload a kill cut short is taken up."""
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
            save_as_external_data=False,
        )
        shutil.copyfile(path, folder / "model.onnx")  # the very bytes, so that the digest holds
        client.log_model_artifacts(logged.model_id, str(folder))
    client.finalize_logged_model(logged.model_id, "READY")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.create_model_version(
        name,
        logged.artifact_location,
        run_id=run.run_id,
        tags={"sha256": digest},
        model_id=logged.model_id,
    )


def _signature(proto: onnx.ModelProto) -> ModelSignature:
    initializers = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in initializers]
    return ModelSignature(Schema(_tensor_specs(inputs)), Schema(_tensor_specs(proto.graph.output)))


def _tensor_specs(values: Any) -> list[TensorSpec]:
    specs = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        shape = [size.dim_value if size.HasField("dim_value") else -1 for size in tensor.shape.dim]
        specs.append(TensorSpec(dtype, shape, value.name))
    return specs


def _champion(client: MlflowClient, name: str) -> int | None:
    version = client.get_registered_model(name).aliases.get(CHAMPION)
    return None if version is None else int(version)


def _resolve(client: MlflowClient, match: re.Match[str], store: Store) -> ModelVersion:
    name, number = match["name"], match["version"]
    try:
        if number is None:
            aliases = client.get_registered_model(name).aliases
            number = aliases.get(match["alias"])
            if number is None:
                known = ", ".join(sorted(aliases)) or "none yet"
                raise UserError(f"{match[0]}: {name} has no such alias in {store}; its aliases: {known}")
        return client.get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise UserError(f"{match[0]}: there is no such model in {store}; promote one first") from None


def _write(
    client: MlflowClient, version: ModelVersion, tags: Mapping[str, str | None], description: str
) -> None:
    """Bring the version's description and tags up to date, in order; None removes a tag."""
    name, number = version.name, str(version.version)
    if version.description != description:
        client.update_model_version(name, number, description)
    for key, value in tags.items():
        if value is None and key in version.tags:
            client.delete_model_version_tag(name, number, key)
        elif value is not None and version.tags.get(key) != value:
            client.set_model_version_tag(name, number, key, value)


def _description(decision: Decision, evidence: Mapping[str, object], note: str | None) -> str:
    """The decision for a reader of MLflow's page, in Markdown."""
    lines = [f"**{decision.answer.capitalize()}**" + (f"; {note}" if note else ""), ""]
    lines += ["| Criterion | Figure | Required | |", "|---|---|---|---|"]
    for criterion in decision.criteria:
        figure, threshold = criterion.texts
        verdict = "passed" if criterion.passed else "failed"
        lines.append(f"| {criterion.label} | {figure} | {criterion.direction} {threshold} | {verdict} |")
    lines += ["", *(f"- {key}: {value}" for key, value in evidence.items())]
    return "\n".join(lines).rstrip() + "\n"
