"""A small Kubeflow Pipelines server: the part of its API v2beta1 that our commands use, over real HTTP.

It keeps what the backend would, and is strict where the backend is: an unknown field, a parameter that the
pipeline does not declare, a listing without a namespace where there are many users are answered 400. Faults
can be put in its way, and requests of several clients in an order.
"""

import json
import re
import ssl
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

API = "/apis/v2beta1"
Record = dict[str, Any]


class RefusedError(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Fault:
    """What happens instead of an answer, or, where it is `lost`, instead of sending it."""

    what: int | str  # a status, or: drop, lost, hang, page, login
    method: str = ".*"
    path: str = ".*"
    times: int = 1_000_000


class Turns:
    """Lets the requests of several clients through one at a time, in the order of `order`."""

    def __init__(self, order: str) -> None:
        self._left = list(order)
        self._gone: set[str] = set()
        self._changed = threading.Condition()

    def enter(self, who: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._next() in (who, None), timeout=30)

    def leave(self, who: str) -> None:
        with self._changed:
            if self._left:
                self._left.pop(0)
            self._changed.notify_all()

    def gone(self, who: str) -> None:
        """The client sends no more requests."""
        with self._changed:
            self._gone.add(who)
            self._changed.notify_all()

    def _next(self) -> str | None:
        while self._left and self._left[0] in self._gone:
            self._left.pop(0)
        return self._left[0] if self._left else None


@dataclass
class KfpServer:
    """The server's state, which tests look at."""

    address: str = ""
    multi_user: bool = False
    tokens: dict[str, bool] | None = None  # each, and whether it is still valid; None: nobody is asked
    cookie: str | None = None  # a session that is as good as a token
    experiments: dict[str, Record] = field(default_factory=dict)
    runs: dict[str, Record] = field(default_factory=dict)
    schedules: dict[str, Record] = field(default_factory=dict)
    most_enabled: Counter[str] = field(default_factory=Counter)  # at any time, by name
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    allowed: int | None = None  # how many requests more are answered, after which the client is cut off
    turns: Turns | None = None
    page: int = 200  # the longest page
    tick: timedelta = timedelta(seconds=1)  # that passes with each record made
    now: datetime = datetime(2026, 11, 1, tzinfo=UTC)
    on_request: Callable[[str], None] | None = None  # is told `METHOD PATH` before it is answered
    released: threading.Event = field(default_factory=threading.Event)  # what hangs goes on
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enabled(self, name: str) -> list[Record]:
        return [one for one in self.schedules.values() if one["display_name"] == name and _on(one)]

    def add_run(self, schedule: Record, **values: Any) -> Record:
        """A run that the scheduler has started."""
        made = self.stamp("run_id") | {
            "display_name": f"{schedule['display_name']} 1",
            "experiment_id": schedule["experiment_id"],
            "recurring_run_id": schedule["recurring_run_id"],
            "state": "RUNNING",
            **values,
        }
        self.runs[made["run_id"]] = made
        return made

    def stamp(self, key: str) -> Record:
        self.now += self.tick
        return {key: str(uuid.uuid4()), "created_at": f"{self.now:%Y-%m-%dT%H:%M:%SZ}"}

    def count(self) -> None:
        names = Counter(one["display_name"] for one in self.schedules.values() if _on(one))
        self.most_enabled |= names


@contextmanager
def kfp_server(certificate: Path | None = None) -> Iterator[KfpServer]:
    """A running server; with TLS where `certificate`, a PEM file with its key, is given."""
    state = KfpServer()
    handler = type("Handler", (_Handler,), {"state": state})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    state.address = f"http{'s' if certificate else ''}://localhost:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    state: KfpServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the tests look at the state."""

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        who = self.headers.get("Authorization", "").removeprefix("Bearer ")
        state, turns = self.state, self.state.turns
        if turns:
            turns.enter(who)
        try:
            path = urlsplit(self.path).path
            state.requests.append(f"{self.command} {path}")
            fault = self._fault(path)
            if fault in {"drop", "hang"}:
                if fault == "hang":
                    state.released.wait(30)
                self.close_connection = True
                return
            if fault == "page":
                self._send(200, b"<html>welcome</html>", "text/html")
                return
            if fault == "login":
                self._send(302, b"", "text/html", Location="/dex/auth")
                return
            try:
                if isinstance(fault, int):
                    raise RefusedError(fault, "made to fail")
                self._admit(who)
                with state.lock:
                    if state.on_request:
                        state.on_request(f"{self.command} {path}")
                    answer = _answer(state, self.command, self.path, body)
                    state.count()
            except RefusedError as refused:
                answer = {"error": str(refused), "code": 3, "message": str(refused), "details": []}
                self._send(refused.status, json.dumps(answer).encode())
                return
            if fault == "lost":
                self.close_connection = True
                return
            self._send(200, json.dumps(answer).encode())
        finally:
            if turns:
                turns.leave(who)

    def _fault(self, path: str) -> int | str | None:
        with self.state.lock:
            if self.state.allowed is not None:
                self.state.allowed -= 1
                if self.state.allowed < 0:
                    return "drop"
            for fault in self.state.faults:
                fits = re.fullmatch(fault.method, self.command) and re.fullmatch(fault.path, path)
                if fault.times and fits:
                    fault.times -= 1
                    return fault.what
        return None

    def _admit(self, who: str) -> None:
        if self.state.cookie is not None and self.headers.get("Cookie") == self.state.cookie:
            return
        if self.state.tokens is None:
            return
        if who not in self.state.tokens:
            raise RefusedError(403, "RBAC: access denied")
        if not self.state.tokens[who]:
            raise RefusedError(401, "Request header error: the token has expired")

    def _send(self, status: int, body: bytes, kind: str = "application/json", **headers: str) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Type": kind, "Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _answer(state: KfpServer, method: str, target: str, body: bytes) -> Record:
    url = urlsplit(target)
    query = {key: values[-1] for key, values in parse_qs(url.query).items()}
    if not url.path.startswith(API):
        raise RefusedError(404, "404 page not found")
    path, _, verb = url.path.removeprefix(API).partition(":")
    kind, _, one = path.strip("/").partition("/")
    match method, kind, one, verb:
        case "GET", "healthz", "", "":
            return {"multi_user": state.multi_user}
        case "GET", "experiments", "", "":
            return _listed(state, state.experiments, query, "experiments")
        case "POST", "experiments", "", "":
            return _new_experiment(state, _body(body, kfp_server_api.V2beta1Experiment))
        case "GET", "runs", "", "":
            return _listed(state, state.runs, query, "runs")
        case "POST", "runs", "", "":
            return _new_run(state, _body(body, kfp_server_api.V2beta1Run))
        case "GET", "runs", _, "":
            return _found(state.runs, one)
        case "GET", "recurringruns", "", "":
            return _listed(state, state.schedules, query, "recurringRuns")
        case "POST", "recurringruns", "", "":
            return _new_schedule(state, _body(body, kfp_server_api.V2beta1RecurringRun))
        case "POST", "recurringruns", _, "enable" | "disable":
            _found(state.schedules, one)["status"] = f"{verb}d".upper()
            return {}
        case "DELETE", "recurringruns", _, "":
            _found(state.schedules, one)
            if query.get("propagation_policy") != "ORPHAN":  # Kubernetes then ends what the schedule has started
                for run in state.runs.values():
                    if run.get("recurring_run_id") == one and run["state"] == "RUNNING":
                        run["state"] = "CANCELED"
            del state.schedules[one]
            return {}
    raise RefusedError(404, f"{method} {target}: Not Found")


def _new_experiment(state: KfpServer, given: Record) -> Record:
    if state.multi_user and not given.get("namespace"):
        raise RefusedError(400, "Invalid input error: Experiment has no namespace")
    for other in state.experiments.values():
        if all(other.get(key) == given.get(key) for key in ("display_name", "namespace")):
            raise RefusedError(409, "Already exist error")
    made = state.stamp("experiment_id") | given
    state.experiments[made["experiment_id"]] = made
    return made


def _new_run(state: KfpServer, given: Record) -> Record:
    _check_pipeline(state, given)
    made = state.stamp("run_id") | {"state": "PENDING"} | given
    state.runs[made["run_id"]] = made
    return made


def _new_schedule(state: KfpServer, given: Record) -> Record:
    _check_pipeline(state, given)
    if not 1 <= int(given.get("max_concurrency", 0)) <= 10:
        raise RefusedError(400, "Invalid input error: The max concurrency of the recurring run is out of range")
    if given.get("mode") not in {"ENABLE", "DISABLE"}:
        raise RefusedError(400, "Invalid input error: mode")
    # as in the backend, whose parser takes the sixth field as a choice
    if len(given["trigger"]["cron_schedule"]["cron"].split()) not in {5, 6}:
        raise RefusedError(400, "Invalid input error: Schedule cron is not a supported format")
    status = f"{given['mode']}D"
    made = state.stamp("recurring_run_id") | {"status": status} | given
    state.schedules[made["recurring_run_id"]] = made
    return made


def _check_pipeline(state: KfpServer, given: Record) -> None:
    _found(state.experiments, given["experiment_id"])
    document = given["pipeline_spec"]
    platform = document.get("platform_spec", {})
    try:
        spec = json_format.ParseDict(document.get("pipeline_spec", document), pipeline_spec_pb2.PipelineSpec())
        json_format.ParseDict(platform, pipeline_spec_pb2.PlatformSpec())
    except json_format.ParseError as error:
        raise RefusedError(400, f"Invalid input error: {error}") from None
    declared = spec.root.input_definitions.parameters
    values = given["runtime_config"].get("parameters", {})
    for name, value in values.items():
        if name not in declared or not isinstance(value, str):
            raise RefusedError(400, f"Invalid input error: parameter {name}")
    if missing := [name for name, one in declared.items() if not one.is_optional and name not in values]:
        raise RefusedError(400, f"Invalid input error: missing parameters {missing}")


def _body(body: bytes, model: Any) -> Record:
    """The JSON of a request, all of whose fields the API must know."""
    given = json.loads(body)
    _check_fields(given, model)
    return dict(given)


def _check_fields(given: Any, model: Any) -> None:
    made_by_server = {"created_at", "updated_at", "run_id", "recurring_run_id", "status", "state", "error"}
    known = {model.attribute_map[name]: kind for name, kind in model.openapi_types.items()}
    if not isinstance(given, dict) or set(given) - set(known) or made_by_server & set(given):
        raise RefusedError(400, f"unknown field in {model.__name__}: {given}")
    for name, value in given.items():
        kind = known[name]
        if inner := getattr(kfp_server_api, kind, None):
            if hasattr(inner, "allowable_values") and isinstance(value, str):
                if value not in inner.allowable_values:
                    raise RefusedError(400, f"{name}: unknown value {value}")
            else:
                _check_fields(value, inner)
        elif kind in {"str", "bool"} and not isinstance(value, int if kind == "bool" else (str, int)):
            raise RefusedError(400, f"{name}: {value!r} is not {kind}")


def _listed(state: KfpServer, records: dict[str, Record], query: Record, key: str) -> Record:
    if state.multi_user and not (query.get("namespace") or query.get("experiment_id")):
        raise RefusedError(400, "Invalid input error: a listing needs a namespace")
    found = [one for one in records.values() if _chosen(state, one, query)]
    if query.get("sort_by"):
        name, _, order = query["sort_by"].partition(" ")
        found.sort(key=lambda one: one[name], reverse=order == "desc")
    start = int(query.get("page_token") or 0)
    size = min(int(query.get("page_size") or 20), state.page)
    more = {"next_page_token": str(start + size)} if start + size < len(found) else {}
    return {key: found[start : start + size], "total_size": len(found)} | more


def _chosen(state: KfpServer, one: Record, query: Record) -> bool:
    if "experiment_id" in query and one.get("experiment_id") != query["experiment_id"]:
        return False
    if state.multi_user and "experiment_id" not in query:
        experiment = state.experiments[one["experiment_id"]]
        if experiment["namespace"] != query["namespace"]:
            return False
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        if predicate["operation"] not in {1, "EQUALS"} or predicate["key"] not in {"display_name", "recurring_run_id"}:
            raise RefusedError(400, f"Invalid input error: filter {predicate}")
        value = predicate.get("string_value", predicate.get("stringValue"))
        if str(one.get(predicate["key"])).casefold() != value.casefold():  # as MySQL compares
            return False
    return True


def _found(records: dict[str, Record], one: str) -> Record:
    if one not in records:
        raise RefusedError(404, f"ResourceNotFoundError: {one} not found")
    return records[one]


def _on(schedule: Record) -> bool:
    return bool(schedule["status"] == "ENABLED")
