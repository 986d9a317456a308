"""Create MLflow's accounts, the model and its ledger, and set their permissions. May be run again.

    python deploy/mlflow_accounts.py http://localhost:5000 MODEL EXPERIMENT

MODEL is fetch_champion.model_name of params.yaml, EXPERIMENT the name of its dataset. The environment holds the
passwords: ADMIN_PASSWORD, and TRAINER_PASSWORD, PROMOTER_PASSWORD, LINE_PASSWORD, which existing accounts get
too. All accounts may read. `trainer` may write to the experiment, `promoter` also to the models, and `line`,
which fetches the champion, to nothing. Needs only the standard library.
"""

import base64
import json
import os
import sys
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

ACCOUNTS = ("trainer", "promoter", "line")
SECONDS = 30


class MLflow:
    """MLflow's REST API, used as its administrator."""

    def __init__(self, address: str, password: str) -> None:
        self._address = address.rstrip("/")
        self._login = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()

    def call(self, path: str, *, method: str = "POST", **values: str) -> Any:
        """The response to a request to `path` below /api/; raises `HTTPError` as urllib does."""
        query = f"?{urlencode(values)}" if method == "GET" else ""
        body = None if method == "GET" else json.dumps(values).encode()
        request = Request(f"{self._address}/api/{path}{query}", body, method=method)
        request.add_header("Authorization", self._login)
        request.add_header("Content-Type", "application/json")
        with urlopen(request, timeout=SECONDS) as reply:
            return json.loads(reply.read() or b"{}")

    def create(self, path: str, **values: str) -> bool:
        """Create an object; returns False where it exists already."""
        try:
            self.call(path, **values)
        except HTTPError as error:
            if error.code != 400 or json.load(error)["error_code"] != "RESOURCE_ALREADY_EXISTS":
                raise  # a refused login is answered in plain text
            return False
        return True


def set_up(mlflow: MLflow, model: str, experiment: str, passwords: dict[str, str]) -> None:
    """Create the accounts, models and experiment that are missing, and set passwords and permissions."""
    for name, password in passwords.items():
        if not mlflow.create("2.0/mlflow/users/create", username=name, password=password):
            mlflow.call("2.0/mlflow/users/update-password", method="PATCH", username=name, password=password)
    mlflow.create("2.0/mlflow/experiments/create", name=experiment)
    response = mlflow.call("2.0/mlflow/experiments/get-by-name", method="GET", experiment_name=experiment)
    number = response["experiment"]["experiment_id"]
    grants = [(name, "experiment", number) for name in ("trainer", "promoter")]
    for name in (model, f"{model}.ledger"):
        mlflow.create("2.0/mlflow/registered-models/create", name=name)
        grants.append(("promoter", "registered_model", name))
    for name, kind, id_ in grants:
        mlflow.create(
            "3.0/mlflow/users/permissions/grant", username=name, resource_type=kind, resource_id=id_, permission="EDIT"
        )


def main(address: str, model: str, experiment: str) -> int:
    """The exit status."""
    passwords = {name: os.environ.get(f"{name.upper()}_PASSWORD", "") for name in ("admin", *ACCOUNTS)}
    if missing := [f"{name.upper()}_PASSWORD" for name, password in passwords.items() if not password]:
        print(f"error: not set: {', '.join(missing)}", file=sys.stderr)
        return 2
    try:
        set_up(MLflow(address, passwords.pop("admin")), model, experiment, passwords)
    except HTTPError as error:
        print(f"failed: {error.url.partition('?')[0]}: {error.code} {error.reason}", file=sys.stderr)
        return 1
    except (URLError, OSError) as error:
        print(f"failed: {address.rpartition('@')[2]}: {getattr(error, 'reason', error)}", file=sys.stderr)
        return 1
    print(f"{', '.join(ACCOUNTS)} may now use {model}, {model}.ledger and the experiment {experiment}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
