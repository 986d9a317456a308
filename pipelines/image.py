"""Whether a registry has an image, asked before a pipeline is sent.

Kubeflow tells nobody that a pod cannot pull its image: the run waits until the pod's deadline has passed.
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
    """Whether the registry has the image; None where it does not say so here.

    That is where no way leads to it, or where it wants to know who asks (some hide then what there is) and
    `docker login` has kept no credentials, or others.
    """
    logging.getLogger("oras.logger").setLevel(logging.CRITICAL)  # what it says is said by the answer
    headers = {"Accept": _MANIFESTS}
    try:
        container = Container(image)
        insecure = str(container.registry).partition(":")[0] in _WITHOUT_TLS
        address = f"http{'' if insecure else 's'}://{container.manifest_url()}"
        with requests.Session() as session:
            session.request = partial(session.request, timeout=TIMEOUT)
            answer = session.head(address, headers=headers)
            if answer.status_code == 401:
                scheme = answer.headers.get("WWW-Authenticate", "").partition(" ")[0].lower()
                login = get_auth_backend("basic" if scheme == "basic" else "token", session, insecure)
                login.load_configs(container)
                headers, _ = login.authenticate_request(answer, headers)
                answer = session.head(address, headers=headers)
                if answer.status_code == 404 and not getattr(login, "_basic_auth", None):
                    return None
    except (requests.RequestException, ValueError, LookupError, AttributeError, OSError):
        return None  # the latter: no credentials, or such as cannot be read, or no image's name
    return {200: True, 404: False}.get(answer.status_code)
