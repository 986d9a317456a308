"""What is retried, how often, how long the pauses are, and what is logged."""

import logging
import time

import pytest

from dbrnet import retries
from dbrnet.errors import BusyError, JobError, UnavailableError
from dbrnet.registry.store import repeatable, retry_while_unavailable
from dbrnet.retries import RetryPolicy
from tests.retrying import retry_at_once

AWAY = UnavailableError("the store is away", "start it")


class Service:
    """Raises `errors` one after the other, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def ask(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "here"


def test_retries_only_while_store_is_unreachable(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dbrnet")
    retry_at_once(monkeypatch, "MLFLOW")
    assert retry_while_unavailable(Service(AWAY, AWAY).ask)() == "here"
    assert [record.message for record in caplog.records] == ["the store is away; trying again in 0 s"] * 2
    for error, calls in ((JobError("refused"), 1), (BusyError("locked"), 1), (AWAY, 3)):
        service = Service(*[error] * 9)
        with pytest.raises(type(error)) as caught:
            retry_while_unavailable(service.ask)()
        assert (caught.value, service.calls) == (error, calls)


def test_the_logged_cause_is_redacted() -> None:
    error = UnavailableError("https://ann:s3cret@data.invalid/a.zip?key=s3cret: away", "start it")
    assert error.cause == "https://data.invalid/a.zip: away"


def test_a_busy_database_is_retried_without_a_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "dbrnet")
    retry_at_once(monkeypatch, "DATABASE")
    assert repeatable(Service(BusyError("locked"), BusyError("locked")).ask)() == "here"
    assert not caplog.records
    with pytest.raises(UnavailableError):
        repeatable(Service(AWAY).ask)()


def test_no_new_try_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where each try takes minutes to fail."""
    retry_at_once(monkeypatch, "MLFLOW")
    monkeypatch.setattr(retries.MLFLOW, "seconds", 0.0)
    service = Service(AWAY, AWAY)
    with pytest.raises(UnavailableError, match="the store is away; start it"):
        retry_while_unavailable(service.ask)()
    assert service.calls == 1


POLICIES = {name: value for name, value in vars(retries).items() if isinstance(value, RetryPolicy)}


@pytest.mark.parametrize("name", POLICIES)
def test_pauses_double_and_outlast_a_minute(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy, pauses = POLICIES[name], list[float]()
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr(policy, "attempts", min(policy.attempts, 30))
    caplog.set_level(logging.DEBUG, "dbrnet")
    service = Service(*[policy.error("away")] * 40)
    with pytest.raises(policy.error):
        policy.retried(service.ask)()
    assert service.calls == policy.attempts == len(pauses) + 1 == len(caplog.records) + 1
    longest = [min(policy.first * 2**number, policy.longest) for number in range(len(pauses))]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert sum(longest) / 2 > 60 or name in {"WEBHOOK", "DATABASE"}
