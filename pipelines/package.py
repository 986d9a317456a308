"""A compiled pipeline that is about to be sent: what it asks for from params.yaml, and whether its images exist.

Kubeflow does not report that a pod cannot pull its image: the run waits until the pod's deadline has passed. So the
registries are asked before.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import requests
from oras.auth import get_auth_backend
from oras.container import Container
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dbrnet.addresses import redact
from dbrnet.config import load_params
from dbrnet.errors import UserError
from pipelines.graphs import PIPELINES, compile_pipeline, sections

REGISTRY_SECONDS = 10.0
_WITHOUT_TLS = ("localhost", "127.0.0.1")
_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
)


@contextmanager
def prepared(pipeline: str, params: Path, *, image: str | None, gpu: bool) -> Iterator[tuple[Path, dict[str, str]]]:
    """The file `pipeline`, or the pipeline of that name compiled for `image`; and its parameters, from `params`.

    Raises `UserError` where it asks for what is not there: a parameter, or an image.
    """
    with TemporaryDirectory() as folder:
        if pipeline in PIPELINES:
            if image is None:
                raise UserError(f"{pipeline} needs --image: the image that its tasks run in")
            package = Path(folder) / f"{pipeline}.yaml"
            compile_pipeline(pipeline, gpu=gpu, image=image, path=package)
        else:
            package = Path(pipeline)
            if package.suffix != ".yaml" or not package.is_file():
                raise UserError(f"{pipeline!r} is neither {' nor '.join(PIPELINES)} nor a compiled .yaml")
            if image or gpu:
                raise UserError(f"{pipeline} is compiled already: --image and --gpu are for {' and '.join(PIPELINES)}")
        declared, images = _needs(package)
        values = _parameters(package, declared, params)
        for name in images:
            found = in_registry(name)
            if found is False:
                raise UserError(f"its registry has no image {name}: is the digest right, and was it pushed?")
            if found is None:
                note = redact(f"note: the registry of {name} does not say here whether it has it")
                print(note, file=sys.stderr)  # noqa: T201
        yield package, values


def _needs(package: Path) -> tuple[dict[str, bool], list[str]]:
    """The parameters that the pipeline declares, each with whether it is optional, and its tasks' images."""
    try:
        spec = next(iter(YAML(typ="safe").load_all(package)))
        declared = spec["root"].get("inputDefinitions", {}).get("parameters", {})
        executors = spec["deploymentSpec"]["executors"].values()
        images = {executor["container"]["image"] for executor in executors if "container" in executor}
        return {name: bool(parameter.get("isOptional")) for name, parameter in declared.items()}, sorted(images)
    except (YAMLError, UnicodeDecodeError, LookupError, TypeError, AttributeError, StopIteration):
        raise UserError(f"{package} is not a compiled pipeline") from None


def _parameters(package: Path, declared: dict[str, bool], path: Path) -> dict[str, str]:
    """The sections of params.yaml at `path` that are declared. What is not there must be optional."""
    params = load_params(path)
    values = sections(params, declared)
    if "ingest" in values and redact(params.ingest.source) != params.ingest.source:
        raise UserError(
            f"{path}: ingest.source has a query, which may be a signature, and Kubeflow shows a run's "
            "parameters to whoever sees the run; give an s3:// address, whose credentials are in a Secret"
        )
    if missing := [name for name, optional in declared.items() if not optional and name not in values]:
        raise UserError(f"{package.name} asks for {', '.join(missing)}, and {path} has no such section")
    return values


def in_registry(image: str) -> bool | None:
    """Whether the registry has the image; None where that cannot be told from here.

    That is where the registry cannot be reached, or where it asks for a login and `docker login` has kept no
    credentials that it accepts. Some registries then answer as if there were no such image.
    """
    logging.getLogger("oras.logger").setLevel(logging.CRITICAL)  # its warnings repeat the result
    headers = {"Accept": _MANIFESTS}
    try:
        container = Container(image)
        insecure = str(container.registry).partition(":")[0] in _WITHOUT_TLS
        address = f"http{'' if insecure else 's'}://{container.manifest_url()}"
        with requests.Session() as session:
            session.request = partial(session.request, timeout=REGISTRY_SECONDS)
            response = session.head(address, headers=headers)
            if response.status_code == 401:
                scheme = response.headers.get("WWW-Authenticate", "").partition(" ")[0].lower()
                login = get_auth_backend("basic" if scheme == "basic" else "token", session, insecure)
                login.load_configs(container)
                headers, _ = login.authenticate_request(response, headers)
                response = session.head(address, headers=headers)
                if response.status_code == 404 and not getattr(login, "_basic_auth", None):
                    return None
    except (requests.RequestException, ValueError, LookupError, AttributeError, OSError):
        return None  # all but the first: no credentials, unreadable ones, or no image's name
    return {200: True, 404: False}.get(response.status_code)
