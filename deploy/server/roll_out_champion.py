"""Write the champion's version into a Deployment's pod template, so that Kubernetes rolls it out.

Runs in the cluster every few minutes, with the standard library alone. Nothing changes where there is no
champion yet or its version is deployed already. Where MLflow or the API server refuses or is unavailable, the
exit status is 1 after one line; the next run tries again.
"""

import base64
import json
import os
import ssl
import sys
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ANNOTATION = "dbrnet/champion"
SECONDS = 30


def find_champion(model: str) -> str | None:
    """The version of models:/MODEL@champion, or None."""
    user, password = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    query = urlencode({"name": model, "alias": "champion"})
    request = Request(f"{os.environ['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/registered-models/alias?{query}")
    request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    try:
        response = _send(request)
    except HTTPError as error:
        if error.code not in {400, 404}:  # a refused login is answered in plain text
            raise
        code = json.load(error)["error_code"]
        if code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:  # no such model; no such alias
            return None
        raise
    return str(response["model_version"]["version"])


def roll_out(deployment: str, champion: str, account: Path = ACCOUNT) -> None:
    """Set the annotation of the Deployment in this pod's namespace; a new value starts new pods."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    path = f"/apis/apps/v1/namespaces/{(account / 'namespace').read_text()}/deployments/{deployment}"
    patch = {"spec": {"template": {"metadata": {"annotations": {ANNOTATION: champion}}}}}
    request = Request(f"https://{host}:{port}{path}", json.dumps(patch).encode(), method="PATCH")
    request.add_header("Content-Type", "application/strategic-merge-patch+json")
    request.add_header("Authorization", f"Bearer {(account / 'token').read_text()}")
    _send(request, ssl.create_default_context(cafile=account / "ca.crt"))


def _send(request: Request, context: ssl.SSLContext | None = None) -> Any:
    with urlopen(request, timeout=SECONDS, context=context) as reply:
        return json.load(reply)


def main(model: str, deployment: str) -> int:
    """The exit status."""
    try:
        version = find_champion(model)
        if version is None:
            print(f"{model} has no champion yet")
            return 0
        roll_out(deployment, f"{model} version {version}")
    except HTTPError as error:
        print(f"failed: {error.url.partition('?')[0]}: {error.code} {error.reason}", file=sys.stderr)
        return 1
    except (URLError, OSError) as error:
        print(f"failed: {getattr(error, 'reason', error)}", file=sys.stderr)
        return 1
    print(f"production runs {model} version {version}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
