"""Whether a container registry has an image, checked before a pipeline is submitted.

Kubeflow does not report that a pod cannot pull its image: the run waits until the pod's deadline has passed.
"""

import logging
from functools import partial

import requests
from oras.auth import get_auth_backend
from oras.container import Container

TIMEOUT = 10.0  # seconds
_WITHOUT_TLS = ("localhost", "127.0.0.1")
_MANIFESTS = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)


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
            session.request = partial(session.request, timeout=TIMEOUT)
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
