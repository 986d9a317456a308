"""The only way to a Kubeflow Pipelines server: kfp's client with time limits, retries and errors of one line."""

import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import kfp
from kfp.client import KF_PIPELINES_SA_TOKEN_ENV, KF_PIPELINES_SA_TOKEN_PATH
from kfp.client.set_volume_credentials import ServiceAccountTokenVolumeCredentials
from kfp_server_api import V2beta1GetHealthzResponse
from urllib3 import BaseHTTPResponse, PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError, MaxRetryError, ReadTimeoutError, SSLError

from dbrnet.addresses import redact
from dbrnet.errors import JobError, UserError
from dbrnet.retries import KUBEFLOW

log = logging.getLogger(__name__)

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
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
    cron: str  # empty: it has no cron expression
    zone: str  # in which cron is meant; empty: another program made it
    enabled: bool
    created: datetime
    experiment: str  # its id


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what kfp prints: the links are ours to print."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore", FutureWarning)
        yield


class Cluster:
    """Kubeflow Pipelines at `host`, used as the user of the environment's token.

    The token comes from KF_PIPELINES_TOKEN, or from the file that KF_PIPELINES_SA_TOKEN_PATH names (in a pod
    the one that Kubeflow mounts), a browser's session from KF_PIPELINES_COOKIES, the certificate of a private
    authority from SSL_CERT_FILE. All methods raise `UserError` where the server refuses, and `JobError` where
    it stays unavailable.
    """

    @_quiet()
    def __init__(self, host: str, namespace: str | None) -> None:
        if not host.startswith(("http://", "https://")):
            raise UserError(f"the host {host!r} must begin with http:// or https://")
        self.host, self.namespace = host.rstrip("/"), namespace
        self._kfp = _Client(host=self.host, namespace=namespace, **_credentials())
        connection = self._kfp._run_api.api_client.rest_client  # one for all of kfp's APIs
        connection.pool_manager = _Pool(self.host, namespace, connection.pool_manager.connection_pool_kw)
        if self._kfp.healthzs.healthz_service_get_healthz().multi_user and not namespace:
            raise UserError(f"{host} serves many users: name your profile's namespace with --namespace")

    @_quiet()
    def experiment(self, name: str) -> str:
        """The id of the experiment `name`, which is created where there is none."""
        try:
            return self._kfp.create_experiment(name, namespace=self.namespace).experiment_id
        except _RefusedError as error:
            if error.status != 409:  # somebody else has created it meanwhile
                raise
        return self._kfp.get_experiment(experiment_name=name, namespace=self.namespace).experiment_id

    @_quiet()
    def start(self, name: str, experiment: str, package: Path, parameters: Mapping[str, str]) -> Run:
        """Start a run of the compiled pipeline. It is not tried twice: there could be two runs."""
        run = self._kfp.run_pipeline(experiment, name, str(package), dict(parameters))
        return _run(run)

    def run(self, run: str) -> Run:
        """The run of this id, in its present state."""
        return _run(self._kfp.get_run(run))

    def last_run(self, schedule: Schedule) -> Run | None:
        """The latest run that the schedule has started."""
        chosen = _equals("recurring_run_id", schedule.id)
        order = {"page_size": 1, "sort_by": "created_at desc"}
        response = self._kfp.list_runs(experiment_id=schedule.experiment, filter=chosen, **order)
        return _run(response.runs[0]) if response.runs else None

    def link(self, run: Run) -> str:
        """Where a browser shows the run."""
        return f"{redact(os.environ.get(UI) or self.host)}/#/runs/details/{run.id}"

    def schedules(self, name: str | None = None) -> list[Schedule]:
        """All schedules of the namespace, or those called `name`; the oldest first."""
        found, page = list[Schedule](), {"page_size": 100, "page_token": ""}
        chosen = None if name is None else _equals("display_name", name)
        while True:
            response = self._kfp.list_recurring_runs(namespace=self.namespace, filter=chosen, **page)
            found += map(_schedule, response.recurring_runs or [])
            page["page_token"] = response.next_page_token or ""
            if not page["page_token"]:
                break
        mine = [schedule for schedule in found if name in (None, schedule.name)]  # the server ignores case in names
        return sorted(mine, key=lambda schedule: (schedule.created, schedule.id))

    def schedule(
        self, name: str, cron: str, zone: str, experiment: str, package: Path, parameters: Mapping[str, str]
    ) -> int:
        """Replace the schedules called `name` by a new one; returns how many there were. Missed runs are not caught up.

        Kubeflow can change nothing of a schedule but whether it is enabled, allows many of one name, and has no
        lock. So that never two of one name are enabled:

        1. create the new one, not enabled;
        2. read all of that name; if another was created later, remove the new one and raise `JobError`;
        3. remove the others;
        4. enable the new one, which fails if somebody has removed it meanwhile.

        Two processes that do this at once cannot both succeed. The one whose schedule is later sees the other's
        in step 2, and enables its own only after it has removed the other's, which then can no longer be enabled.
        Killed between the steps, the old one is still enabled, or for the moment none is; another call removes what
        is left over.
        """
        overtaken = JobError(f"somebody else changed the schedule {name!r} at this moment; look at it with `list`")
        made = self._kfp.create_recurring_run(
            experiment,
            name,
            description=f"cron in {zone}",
            cron_expression=cron,
            max_concurrency=1,
            no_catchup=True,
            params=dict(parameters),
            pipeline_package_path=str(package),
            enabled=False,
        )
        schedules = self.schedules(name)
        if not schedules or schedules[-1].id != made.recurring_run_id:
            self._remove(made.recurring_run_id)
            raise overtaken
        for previous in schedules[:-1]:
            self._remove(previous.id)
        if not _exists(lambda: self._kfp.enable_recurring_run(made.recurring_run_id)):
            raise overtaken
        return len(schedules) - 1

    def unschedule(self, name: str) -> int:
        """Remove all schedules called `name`; returns how many there were."""
        schedules = self.schedules(name)
        for schedule in schedules:
            self._remove(schedule.id)
        return len(schedules)

    def _remove(self, schedule: str) -> None:
        """Remove the schedule of this id, if it still exists. A run that it has started goes on."""
        delete = self._kfp.recurring_runs.recurring_run_service_delete_recurring_run
        _exists(lambda: delete(schedule, propagation_policy="ORPHAN"))  # kfp's own method would end that run


class _Client(kfp.Client):
    def get_kfp_healthz(self, sleep_duration: int = 5) -> V2beta1GetHealthzResponse:
        """Nothing: while it is created kfp's client would try for half a minute, with tracebacks."""
        return V2beta1GetHealthzResponse(multi_user=False)


class _RefusedError(UserError):
    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class _Pool(PoolManager):
    """kfp's connections with a time limit, retries and errors of one line.

    Redirects are refusals here: they lead to a page to log in.
    """

    def __init__(self, host: str, namespace: str | None, options: Mapping[str, Any]) -> None:
        super().__init__(**options)
        self._host, self._namespace = host, namespace

    def urlopen(self, method: str, url: str, redirect: bool = True, **options: Any) -> BaseHTTPResponse:  # type: ignore[override]
        # A POST may have been carried out although its response was lost, so only connecting is tried again.
        # Enabling twice is harmless.
        repeatable = None if url.endswith(":enable") else Retry.DEFAULT_ALLOWED_METHODS
        options["timeout"] = Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS)
        options["retries"] = _LoggedRetry(
            total=KUBEFLOW.attempts - 1,
            other=0,  # TLS
            allowed_methods=repeatable,
            status_forcelist=BUSY,
            raise_on_status=False,
            respect_retry_after_header=False,  # it may be an hour
            backoff_factor=KUBEFLOW.first,
            backoff_max=KUBEFLOW.longest,
        )
        try:
            response = super().urlopen(method, url, redirect=False, **options)
        except HTTPError as error:
            raise self._unreachable(error) from None
        if response.status >= 300:
            raise self._refused(response)
        if "json" not in response.headers.get("Content-Type", ""):
            raise self._not_the_api("it answers with a page", response.status)
        return response

    def _unreachable(self, error: HTTPError) -> UserError | JobError:
        cause = error.reason if isinstance(error, MaxRetryError) else error
        reason = str(cause).splitlines()[-1].rsplit(": ", 1)[-1]  # without urllib3's classes and objects
        if isinstance(cause, SSLError):
            return UserError(
                f"{self._host} has no certificate that we trust: {reason}; for one of your own authority let "
                "SSL_CERT_FILE name that authority's certificate"
            )
        if isinstance(cause, ReadTimeoutError):
            return JobError(f"{self._host} did not answer in {READ_SECONDS:g} s")
        return JobError(f"{self._host} cannot be reached: {reason}")

    def _refused(self, response: BaseHTTPResponse) -> UserError | JobError:
        status = response.status
        try:
            body = json.loads(response.data)
            message = str(body.get("message") or body.get("error"))
        except (ValueError, AttributeError):  # from a proxy in front of the API
            message = str(response.reason)
        if status in {302, 401, 403}:
            why = "the token has expired" if status == 401 else "the token has expired or may not do this"
            where = f" in the namespace {self._namespace}" if self._namespace else ""
            return UserError(f"{self._host} refuses us{where} ({status}): {why}; {LOG_IN}")
        if status == 404:
            return self._not_the_api(message, status)
        if status in BUSY:
            return JobError(f"{self._host} answers {status} and does not recover: {message}")
        return _RefusedError(f"{self._host} refuses the request ({status}): {message}", status)

    def _not_the_api(self, why: str, status: int) -> UserError:
        message = f"{self._host} is not the API of Kubeflow Pipelines: {why}; give the address before /apis, which"
        return _RefusedError(f"{message} beside Kubeflow's dashboard is https://NAME/pipeline", status)


class _LoggedRetry(Retry):
    def sleep(self, response: BaseHTTPResponse | None = None) -> None:
        """Log why, then sleep: urllib3 logs nothing where the server answered."""
        reason = f"answers {response.status}" if response else "cannot be reached"
        log.info("Kubeflow Pipelines %s; trying again in %.0f s", reason, self.get_backoff_time())
        super().sleep(response)


def _credentials() -> dict[str, Any]:
    """What kfp's client takes, from the environment alone. A token's file is read anew for each request."""
    cookies, authority = os.environ.get(COOKIES) or None, os.environ.get("SSL_CERT_FILE") or None
    options: dict[str, Any] = {"cookies": cookies, "ssl_ca_cert": authority}
    path = os.environ.get(KF_PIPELINES_SA_TOKEN_ENV)
    if token := os.environ.get(TOKEN):
        options["existing_token"] = token.strip()
    elif path and not Path(path).is_file():
        raise UserError(f"{KF_PIPELINES_SA_TOKEN_ENV} names {path}, which is no file")
    elif path or Path(KF_PIPELINES_SA_TOKEN_PATH).exists():
        options["credentials"] = ServiceAccountTokenVolumeCredentials(path)
    return options


def _exists(call: Callable[[], object]) -> bool:
    try:
        call()
    except _RefusedError as error:
        if error.status != 404:
            raise
        return False
    return True


def _equals(key: str, value: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": key, "string_value": value}]})


def _run(run: Any) -> Run:
    tasks = (run.run_details and run.run_details.task_details) or []
    failed = tuple(task.display_name for task in tasks if task.state == "FAILED")
    error = (run.error and run.error.message) or ""
    return Run(run.run_id, run.display_name, run.state or "PENDING", run.finished_at, failed, error)


def _schedule(run: Any) -> Schedule:
    cron = run.trigger and run.trigger.cron_schedule
    zone = re.search(r"cron in (\S+)", run.description or "")
    return Schedule(
        run.recurring_run_id,
        run.display_name,
        cron.cron if cron else "",
        zone[1] if zone else "",
        enabled=run.status == "ENABLED",
        created=run.created_at,
        experiment=run.experiment_id,
    )
