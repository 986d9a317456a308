"""The door to a Kubeflow Pipelines server: kfp's client, with time limits, repeats and errors of one line."""

import io
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import kfp
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from kfp_server_api import ApiException, V2beta1GetHealthzResponse
from kfp_server_api.rest import RESTClientObject
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, TimeoutError

from dbrnet.addresses import redact
from dbrnet.errors import JobError, UserError

TIMEOUT = (10.0, 60.0)  # seconds to connect, and to wait for an answer
PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0, 30.0)  # seconds between tries: a minute's outage is survived
BUSY = {429, 500, 502, 503, 504}
TOKEN, COOKIES, UI = "KF_PIPELINES_TOKEN", "KF_PIPELINES_COOKIES", "KF_PIPELINES_UI_ENDPOINT"
LOG_IN = f"log in again and set {TOKEN} (or {COOKIES}, or {KF_PIPELINES_SA_TOKEN_ENV} to a file) anew"


@dataclass(frozen=True)
class Run:
    """A run of a pipeline."""

    id: str
    name: str
    state: str  # PENDING, RUNNING, SUCCEEDED, SKIPPED, FAILED, CANCELING, CANCELED, PAUSED
    finished: datetime | None
    failed: tuple[str, ...]  # the tasks that failed
    error: str


@dataclass(frozen=True)
class Schedule:
    """A recurring run, as Kubeflow calls it. Only whether it is enabled can be changed."""

    id: str
    name: str
    cron: str  # empty: it is not by cron
    description: str
    enabled: bool
    created: datetime
    experiment: str  # its id


class Cluster:
    """Kubeflow Pipelines at `host`, as the user whom the environment's token names.

    The token comes from KF_PIPELINES_TOKEN, or from the file that KF_PIPELINES_SA_TOKEN_PATH names (in a pod
    the one that Kubeflow mounts), a browser's session from KF_PIPELINES_COOKIES, the certificate of a private
    authority from SSL_CERT_FILE. All methods raise `UserError` where the server refuses, and `JobError` where
    it is away.
    """

    def __init__(self, host: str, namespace: str | None) -> None:
        if not host.startswith(("http://", "https://")):
            raise UserError(f"the host {host!r} must begin with http:// or https://")
        self.host, self.namespace = host.rstrip("/"), namespace
        with self._told(), _quiet():
            self._kfp = _Client(host=self.host, namespace=namespace, **_credentials())
            api = self._kfp._run_api.api_client  # one for all of kfp's APIs
            api.configuration.retries = False  # ours, and no redirect to a page to log in
            api.rest_client = _Connection(api.configuration)
            health = self._kfp.healthzs.healthz_service_get_healthz()
        if health.multi_user and not namespace:
            raise UserError(f"{host} serves many users: name your profile's namespace with --namespace")

    def experiment(self, name: str) -> str:
        """The id of the experiment `name`, which is made where there is none."""
        with self._told(), _quiet():
            try:
                return self._kfp.create_experiment(name, namespace=self.namespace).experiment_id
            except ApiException as error:
                if error.status != 409:  # somebody else has made it meanwhile
                    raise
            return self._kfp.get_experiment(experiment_name=name, namespace=self.namespace).experiment_id

    def start(self, package: Path, name: str, experiment: str, parameters: Mapping[str, str]) -> Run:
        """Start a run `name` of the compiled pipeline. It is not tried twice: there could be two runs."""
        with self._told(), _quiet():
            run = self._kfp.run_pipeline(experiment, name, pipeline_package_path=str(package), params=dict(parameters))
        return _run(run)

    def run(self, run: str) -> Run:
        """The run of this id, as it stands."""
        with self._told():
            return _run(self._kfp.get_run(run))

    def last_run(self, schedule: Schedule) -> Run | None:
        """The latest run that the schedule has started."""
        with self._told():
            answer = self._kfp.list_runs(
                page_size=1,
                sort_by="created_at desc",
                experiment_id=schedule.experiment,
                filter=_equals("recurring_run_id", schedule.id),
            )
        return _run(answer.runs[0]) if answer.runs else None

    def link(self, run: Run) -> str:
        """Where a browser shows the run."""
        return f"{redact(os.environ.get(UI) or self.host)}/#/runs/details/{run.id}"

    def schedules(self, name: str | None = None) -> list[Schedule]:
        """All schedules of the namespace, or those called `name`."""
        found, token = [], ""
        chosen = None if name is None else _equals("display_name", name)
        while True:
            with self._told():
                answer = self._kfp.list_recurring_runs(
                    page_token=token, page_size=100, namespace=self.namespace, filter=chosen
                )
            found += [_schedule(one) for one in answer.recurring_runs or []]
            if not (token := answer.next_page_token or ""):
                # the server does not tell capitals from small letters
                return [one for one in found if name in (None, one.name)]

    def add_schedule(
        self, package: Path, name: str, cron: str, description: str, experiment: str, parameters: Mapping[str, str]
    ) -> Schedule:
        """Make a schedule that is not enabled yet. Runs that were missed are not made up for."""
        with self._told():
            made = self._kfp.create_recurring_run(
                experiment,
                name,
                description=description,
                cron_expression=cron,
                max_concurrency=1,
                no_catchup=True,
                params=dict(parameters),
                pipeline_package_path=str(package),
                enabled=False,
            )
        return _schedule(made)

    def enable(self, schedule: Schedule) -> bool:
        """Enable the schedule; whether it was still there."""
        with self._told():
            return _there(lambda: self._kfp.enable_recurring_run(schedule.id))

    def remove(self, schedule: Schedule) -> None:
        """Remove the schedule, if it is still there. A run that it has started goes on."""
        delete = self._kfp.recurring_runs.recurring_run_service_delete_recurring_run
        with self._told():  # kfp's own method would end that run
            _there(lambda: delete(schedule.id, propagation_policy="ORPHAN"))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Say in one line what went wrong."""
        try:
            yield
        except ApiException as error:
            raise self._explained(error) from None
        except HTTPError as error:
            if isinstance(error, TimeoutError) and not isinstance(error, NewConnectionError):  # which is one
                raise JobError(f"{self.host} did not answer in {TIMEOUT[1]:g} s") from None
            raise JobError(f"{self.host} cannot be reached: {_last_part(str(error))}") from None
        except OSError as error:
            raise UserError(f"cannot read {error.filename or 'a file'}: {error.strerror or error}") from None

    def _explained(self, error: ApiException) -> UserError | JobError:
        message = _message(error)
        if error.status in {302, 401, 403}:
            why = "the token has expired" if error.status == 401 else "the token has expired or may not do this"
            where = f" in the namespace {self.namespace}" if self.namespace else ""
            return UserError(f"{self.host} refuses us{where} ({error.status}): {why}; {LOG_IN}")
        if error.status == 404:
            return _not_the_api(self.host, message)
        if error.status == 0:  # by kfp's client: TLS
            return UserError(
                f"{self.host} has no certificate that we trust: {_last_part(message)}; for one of your own "
                "authority let SSL_CERT_FILE name that authority's certificate"
            )
        if error.status in BUSY:
            return JobError(f"{self.host} answers {error.status} and does not recover: {message}")
        return UserError(f"{self.host} refuses the request ({error.status}): {message}")


class _Client(kfp.Client):
    """kfp's client, which asks nothing while it is made: it would try for half a minute, with tracebacks."""

    def get_kfp_healthz(self, sleep_duration: int = 5) -> V2beta1GetHealthzResponse:
        return V2beta1GetHealthzResponse(multi_user=False)


class _Connection(RESTClientObject):
    """kfp's HTTP connection with a time limit, and with repeats where a repeat cannot do a thing twice."""

    def request(self, method: str, url: str, **options: Any) -> Any:
        options["_request_timeout"] = TIMEOUT
        harmless = method != "POST" or url.endswith(":enable")
        for pause in (*PAUSES, None):
            try:
                answer = super().request(method, url, **options)
            except ApiException as error:
                error.body = error.body or b""  # kfp's client decodes it, also where there is none
                if pause is None or not harmless or error.status not in BUSY:
                    raise
            except (NewConnectionError, ConnectTimeoutError):  # nothing has arrived there
                if pause is None:
                    raise
            except HTTPError:
                if pause is None or not harmless:
                    raise
            else:
                if "json" not in answer.urllib3_response.headers.get("Content-Type", ""):
                    raise _not_the_api(url.partition("/apis/")[0], "it answers with a page")
                return answer
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what kfp prints: its links are ours to print, and its warnings nobody's."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _credentials() -> dict[str, Any]:
    """What kfp's client takes, from the environment alone. A token's file is read anew for each request."""
    given: dict[str, Any] = {
        "cookies": os.environ.get(COOKIES) or None,
        "ssl_ca_cert": os.environ.get("SSL_CERT_FILE") or None,
    }
    path = os.environ.get(KF_PIPELINES_SA_TOKEN_ENV)
    if token := os.environ.get(TOKEN):
        given["existing_token"] = token.strip()
    elif path and not Path(path).is_file():
        raise UserError(f"{KF_PIPELINES_SA_TOKEN_ENV} names {path}, which is no file")
    elif path or Path(KF_PIPELINES_SA_TOKEN_PATH).exists():
        given["credentials"] = ServiceAccountTokenVolumeCredentials(path)
    return given


def _not_the_api(host: str, why: str) -> UserError:
    return UserError(
        f"{host} is not the API of Kubeflow Pipelines: {why}; give the address before /apis, which beside "
        "Kubeflow's dashboard is https://NAME/pipeline"
    )


def _there(call: Any) -> bool:
    try:
        call()
    except ApiException as error:
        if error.status != 404:
            raise
        return False
    return True


def _equals(key: str, value: str) -> str:
    predicate = {"operation": "EQUALS", "key": key, "string_value": value}
    return json.dumps({"predicates": [predicate]})


def _run(run: Any) -> Run:
    tasks = (run.run_details and run.run_details.task_details) or []
    return Run(
        run.run_id,
        run.display_name,
        run.state or "PENDING",
        run.finished_at,
        failed=tuple(task.display_name for task in tasks if task.state == "FAILED"),
        error=(run.error and run.error.message) or "",
    )


def _schedule(one: Any) -> Schedule:
    cron = one.trigger and one.trigger.cron_schedule
    return Schedule(
        one.recurring_run_id,
        one.display_name,
        cron.cron if cron else "",
        one.description or "",
        enabled=one.status == "ENABLED",
        created=one.created_at,
        experiment=one.experiment_id,
    )


def _message(error: ApiException) -> str:
    """What the server says, which is JSON where it is the API and not a proxy in front of it."""
    try:
        answer = json.loads(error.body or "")
        return str(answer.get("message") or answer.get("error"))
    except (ValueError, AttributeError):
        return str(error.reason)


def _last_part(message: str) -> str:
    """Without the names of the classes and objects that urllib3 puts in front."""
    return message.splitlines()[-1].rsplit(": ", 1)[-1]
