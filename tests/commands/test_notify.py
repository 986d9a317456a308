"""Messages about a run's end, sent to a real HTTP server that plays the webhook."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dbrnet.commands.notify import notify
from dbrnet.config import FetchChampionParams
from dbrnet.errors import JobError, UserError
from dbrnet.records import Decision
from dbrnet.registry.ledger_state import KeyFigures
from dbrnet.registry.promotion import record
from dbrnet.registry.store import open_store
from tests.http_server import Handler, serving
from tests.retrying import retry_at_once

PARAMS = FetchChampionParams(model_name="dbrnet-line3")
SECRET = "T0K3N-of-the-channel"


@dataclass
class Webhook:
    """Responds with the statuses in `answers`, then with 200; keeps the messages that it took."""

    answers: list[int] = field(default_factory=list)
    taken: list[dict[str, str]] = field(default_factory=list)
    requests: int = 0


class Hook(Handler):
    def answer(self) -> None:
        webhook: Webhook = self.server.state
        webhook.requests += 1
        body = self.rfile.read(int(self.headers["Content-Length"]))
        status = webhook.answers.pop(0) if webhook.answers else 200
        if status == 200:
            assert self.headers["Content-Type"] == "application/json"
            webhook.taken.append(json.loads(body))
        self.respond(status)


@pytest.fixture
def webhook(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Webhook]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    retry_at_once(monkeypatch, "WEBHOOK", attempts=4)
    with serving(Hook, Webhook()) as server:
        monkeypatch.setenv("DBRNET_NOTIFY_URL", f"{server.address}/hooks/{SECRET}")
        yield server.state


def test_sends_the_outcome_and_the_champion(webhook: Webhook, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.client.create_registered_model(PARAMS.model_name)
    store.client.create_model_version(PARAMS.model_name, source=str(tmp_path))
    record(
        store,
        PARAMS.model_name,
        1,
        Decision(answer="promoted", mode="automatic", reasons=("every criterion is met",), criteria=()),
        compared_with=None,
        decision_id="d1",
        run_id="r1",
        figures=KeyFigures(),
    )
    notify(PARAMS, run="dbrnet-retraining", state="SUCCEEDED")
    [message] = webhook.taken
    first, second = message["text"].splitlines()
    assert first == "dbrnet-retraining: succeeded"
    assert second.startswith("dbrnet-line3: version 1 is champion; latest decision, ")
    assert second.endswith("version 1 promoted: every criterion is met")


def test_sends_the_error_and_an_unavailable_registry(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, away_address: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{away_address}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    retry_at_once(monkeypatch, "MLFLOW", attempts=1)
    notify(PARAMS, run="dbrnet-retraining", state="FAILED", error="the task train failed")
    first, second = webhook.taken[0]["text"].splitlines()
    assert first == "dbrnet-retraining: failed: the task train failed"
    assert "cannot be reached" in second


def test_retries_a_failing_webhook(webhook: Webhook) -> None:
    webhook.answers = [503, 500]
    notify(PARAMS, run="nightly", state="SUCCEEDED")
    assert len(webhook.taken) == 1
    assert "no model was ever decided on" in webhook.taken[0]["text"]


def test_a_refusing_webhook_is_an_error_without_its_address(webhook: Webhook, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    webhook.answers = [403] * 9
    with pytest.raises(JobError, match="did not take the message: it answers 403 Forbidden") as caught:
        notify(PARAMS, run="nightly", state="SUCCEEDED")
    assert webhook.requests == 4
    assert SECRET not in str(caught.value) + caplog.text


def test_without_a_webhook_the_text_is_logged(
    webhook: Webhook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.delenv("DBRNET_NOTIFY_URL")
    notify(PARAMS, run="nightly", state="SUCCEEDED")
    assert "nightly: succeeded" in caplog.text
    assert "names no webhook" in caplog.text
    assert not webhook.requests
    monkeypatch.setenv("DBRNET_NOTIFY_URL", f"file:///{SECRET}")
    with pytest.raises(UserError, match="must be an http") as caught:
        notify(PARAMS, run="nightly", state="SUCCEEDED")
    assert SECRET not in str(caught.value)
