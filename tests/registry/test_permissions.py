"""Who may promote, on a real MLflow server with its basic authentication."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dbrnet.errors import JobError
from dbrnet.registry.store import Store, open_store
from tests.registry.acting import NAME, carry_out, registry_state, start
from tests.registry.conftest import ModelMaker
from tests.registry.servers import mlflow_server

PASSWORDS = {name: f"{name}-s3cret-passw0rd" for name in ("admin", "trainer", "promoter")}
CONFIG = """\
[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
admin_username = admin
admin_password = {password}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Act = Callable[[str], Store]


@pytest.fixture
def log_in(migrated_database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Act]:
    """Become somebody on a server where all may read, and the promoter may write the two models."""
    config = tmp_path / "auth.ini"
    config.write_text(CONFIG.format(folder=tmp_path, password=PASSWORDS["admin"]))
    environment = {"MLFLOW_AUTH_CONFIG_PATH": str(config), "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32}
    words = ["--app-name", "basic-auth"]
    with mlflow_server(tmp_path, migrated_database, words, environment) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

        def become(name: str) -> Store:
            monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", name)
            monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORDS[name])
            return open_store(tmp_path)

        store = become("admin")
        from mlflow.server import get_app_client  # seconds, which whoever collects the tests need not wait

        users = get_app_client("basic-auth", tracking_uri=address)
        for name in ("trainer", "promoter"):
            users.create_user(name, PASSWORDS[name])
        for model in (NAME, f"{NAME}.ledger"):
            store.client.create_registered_model(model)
            users.grant_user_permission("promoter", "registered_model", model, "EDIT")
        experiment = store.client.create_experiment("strip")
        for name in ("trainer", "promoter"):
            users.grant_user_permission(name, "experiment", experiment, "EDIT")
        yield become


def test_a_trainer_logs_and_cannot_promote_and_a_promoter_can(log_in: Act, make_model: ModelMaker) -> None:
    store = log_in("trainer")
    run = start(store)
    run.log_metrics({"loss": 1.0}, step=1)
    with pytest.raises(JobError) as caught:
        carry_out(store, run, make_model(1))
    told = str(caught.value)
    assert "\n" not in told
    assert "may not" in told
    assert not [password for password in PASSWORDS.values() if password in told]

    store = log_in("promoter")
    promotion = carry_out(store, start(store, run.run_id), make_model(1))
    assert (promotion.answer, promotion.champion_after) == ("promoted", 1)
    state = registry_state(store)

    store = log_in("trainer")
    for model in (make_model(1), make_model(2)):
        with pytest.raises(JobError, match="may not"):
            carry_out(store, start(store, run.run_id), model, against=1)
    assert registry_state(store) == state  # it may look
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "trainer"


def test_a_password_that_is_not_accepted_any_more_is_one_line(log_in: Act, monkeypatch: pytest.MonkeyPatch) -> None:
    store = log_in("trainer")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "of-last-year")
    with pytest.raises(JobError, match="does not accept the credentials; renew MLFLOW_TRACKING_U") as caught:
        start(store)
    assert "of-last-year" not in str(caught.value)
