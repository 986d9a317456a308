"""The backend of Kubeflow Pipelines in small: the part of its API v2beta1 that our commands use.

It is strict where the real one is. It answers 400 to an unknown field, a parameter that the pipeline does not
declare, and a listing without a namespace where there are many users.
"""

import json
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

API = "/apis/v2beta1"
Record = dict[str, Any]


class RefusedError(Exception):
    """A response that is not 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Backend:
    """The records that the backend keeps."""

    multi_user: bool = False
    experiments: dict[str, Record] = field(default_factory=dict)
    runs: dict[str, Record] = field(default_factory=dict)
    schedules: dict[str, Record] = field(default_factory=dict)
    most_enabled: Counter[str] = field(default_factory=Counter)  # at any time, by name
    page: int = 200  # the longest page
    tick: timedelta = timedelta(seconds=1)  # passes with each new record
    now: datetime = datetime(2026, 11, 1, tzinfo=UTC)

    def enabled(self, name: str) -> list[Record]:
        return [record for record in self.schedules.values() if record["display_name"] == name and _is_enabled(record)]

    def add_run(self, schedule: Record, **values: Any) -> Record:
        """A run that the scheduler has started."""
        run = self.stamp("run_id") | {
            "display_name": f"{schedule['display_name']} 1",
            "experiment_id": schedule["experiment_id"],
            "recurring_run_id": schedule["recurring_run_id"],
            "state": "RUNNING",
            **values,
        }
        self.runs[run["run_id"]] = run
        return run

    def stamp(self, key: str) -> Record:
        self.now += self.tick
        return {key: str(uuid.uuid4()), "created_at": f"{self.now:%Y-%m-%dT%H:%M:%SZ}"}

    def count(self) -> None:
        self.most_enabled |= Counter(
            record["display_name"] for record in self.schedules.values() if _is_enabled(record)
        )


def respond(state: Backend, method: str, target: str, body: bytes) -> Record:
    url = urlsplit(target)
    query = {key: values[-1] for key, values in parse_qs(url.query).items()}
    if not url.path.startswith(API):
        raise RefusedError(404, "404 page not found")
    path, _, verb = url.path.removeprefix(API).partition(":")
    kind, _, id_ = path.strip("/").partition("/")
    match method, kind, id_, verb:
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
            return _found(state.runs, id_)
        case "GET", "recurringruns", "", "":
            return _listed(state, state.schedules, query, "recurringRuns")
        case "POST", "recurringruns", "", "":
            return _new_schedule(state, _body(body, kfp_server_api.V2beta1RecurringRun))
        case "POST", "recurringruns", _, "enable" | "disable":
            _found(state.schedules, id_)["status"] = f"{verb}d".upper()
            return {}
        case "DELETE", "recurringruns", _, "":
            _found(state.schedules, id_)
            if query.get("propagation_policy") != "ORPHAN":  # Kubernetes then ends what the schedule has started
                for run in state.runs.values():
                    if run.get("recurring_run_id") == id_ and run["state"] == "RUNNING":
                        run["state"] = "CANCELED"
            del state.schedules[id_]
            return {}
    raise RefusedError(404, f"{method} {target}: Not Found")


def _new_experiment(state: Backend, given: Record) -> Record:
    if state.multi_user and not given.get("namespace"):
        raise RefusedError(400, "Invalid input error: Experiment has no namespace")
    for other in state.experiments.values():
        if all(other.get(key) == given.get(key) for key in ("display_name", "namespace")):
            raise RefusedError(409, "Already exist error")
    made = state.stamp("experiment_id") | given
    state.experiments[made["experiment_id"]] = made
    return made


def _new_run(state: Backend, given: Record) -> Record:
    _check_pipeline(state, given)
    made = state.stamp("run_id") | {"state": "PENDING"} | given
    state.runs[made["run_id"]] = made
    return made


def _new_schedule(state: Backend, given: Record) -> Record:
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


def _check_pipeline(state: Backend, given: Record) -> None:
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
    if missing := [name for name, parameter in declared.items() if not parameter.is_optional and name not in values]:
        raise RefusedError(400, f"Invalid input error: missing parameters {missing}")


def _body(body: bytes, model: Any) -> Record:
    """The JSON of a request, whose fields the API must all know."""
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


def _listed(state: Backend, records: dict[str, Record], query: Record, key: str) -> Record:
    if state.multi_user and not (query.get("namespace") or query.get("experiment_id")):
        raise RefusedError(400, "Invalid input error: a listing needs a namespace")
    found = [record for record in records.values() if _chosen(state, record, query)]
    if query.get("sort_by"):
        name, _, order = query["sort_by"].partition(" ")
        found.sort(key=lambda record: record[name], reverse=order == "desc")
    start = int(query.get("page_token") or 0)
    size = min(int(query.get("page_size") or 20), state.page)
    more = {"next_page_token": str(start + size)} if start + size < len(found) else {}
    return {key: found[start : start + size], "total_size": len(found)} | more


def _chosen(state: Backend, record: Record, query: Record) -> bool:
    if "experiment_id" in query and record.get("experiment_id") != query["experiment_id"]:
        return False
    if state.multi_user and "experiment_id" not in query:
        experiment = state.experiments[record["experiment_id"]]
        if experiment["namespace"] != query["namespace"]:
            return False
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        if predicate["operation"] not in {1, "EQUALS"} or predicate["key"] not in {"display_name", "recurring_run_id"}:
            raise RefusedError(400, f"Invalid input error: filter {predicate}")
        value = predicate.get("string_value", predicate.get("stringValue"))
        if str(record.get(predicate["key"])).casefold() != value.casefold():  # as MySQL compares
            return False
    return True


def _found(records: dict[str, Record], id_: str) -> Record:
    if id_ not in records:
        raise RefusedError(404, f"ResourceNotFoundError: {id_} not found")
    return records[id_]


def _is_enabled(schedule: Record) -> bool:
    return bool(schedule["status"] == "ENABLED")
