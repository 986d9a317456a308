"""`python -m pipelines`: compile the pipelines, run them here, submit and schedule them on a cluster."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from zoneinfo import ZoneInfo, available_timezones

from cyclopts import Group, Parameter

import dbrnet.cli
from dbrnet.addresses import redact
from dbrnet.commands import Json, new_app, print_json, reflow
from dbrnet.errors import JobError, UserError
from pipelines.cron import Cron

if TYPE_CHECKING:
    from pipelines.client import Cluster, Schedule

ENDED = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
SECONDS = 10.0  # between two looks at a run that is waited for
MINUTE = "%Y-%m-%d %H:%M"
COLUMNS = ("NAME", "CRON", "TIME ZONE", "ENABLED", "NEXT RUN", "LAST RESULT", "FINISHED", "LINK")

HERE, CLUSTER = Group("Here", sort_key=1), Group("On a cluster", sort_key=2)
app = new_app("python -m pipelines", "Compile the pipelines, run them here, submit and schedule them on a cluster.")


@Parameter(name="*")
@dataclass(frozen=True)
class Server:
    """Which Kubeflow Pipelines is meant."""

    host: Annotated[str, Parameter(help="the server's address, such as https://kubeflow.example/pipeline")]
    namespace: Annotated[str | None, Parameter(help="your profile's namespace, where Kubeflow serves many users")] = (
        None
    )

    def open(self) -> "Cluster":
        """A client of it."""
        from pipelines.client import Cluster

        return Cluster(self.host, self.namespace)


@Parameter(name="*")
@dataclass(frozen=True)
class Settings:
    """How a pipeline is compiled and given its parameters."""

    image: Annotated[str | None, Parameter(help="the image that its tasks run in, as NAME@sha256:DIGEST")] = None
    gpu: Annotated[bool, Parameter(help="train, evaluate and measure on a GPU")] = False
    params: Annotated[Path, Parameter(help="the parameters' file")] = Path("params.yaml")
    experiment: Annotated[str, Parameter(help="Kubeflow's group of runs")] = "dbrnet"


@app.command(name="compile", group=HERE)
def compile_() -> None:
    """Write components/compiled and pipelines/compiled anew.

    For example:

        python -m pipelines compile
    """
    from pipelines.graphs import compile_all

    for path in compile_all(Path(__file__).parents[1]):
        _say(path.name)


@app.command(group=HERE)
def run(
    *,
    local: bool,
    retraining: bool = False,
    params: Path = Path("params.yaml"),
    root: Path = Path("artifacts/kubeflow"),
) -> None:
    """Run a pipeline on this machine, by Kubeflow's local runner.

    For example:

        python -m pipelines run --local
        python -m pipelines run --local --retraining

    Args:
        local: on this machine; required, since no other place is supported
        retraining: ask first whether the data warrants it
        params: the parameters' file
        root: the folder for the artifacts
    """
    from dbrnet.config import load_params
    from pipelines.graphs import run_local

    run_local("retraining" if retraining else "training", load_params(params), root)


@app.command(group=CLUSTER)
def submit(pipeline: str, /, *, server: Server, settings: Settings = Settings(), wait: bool = False) -> None:
    """Start a run on a cluster and print its link.

    For example:

        python -m pipelines submit training --host https://kubeflow.example/pipeline --image "$IMAGE"
        python -m pipelines submit ours.yaml --host http://localhost:8888 --wait

    Args:
        pipeline: training, retraining, or a compiled .yaml
        wait: until it ends; the status is 0 where it succeeded
    """
    from pipelines.package import prepared

    with prepared(pipeline, settings.params, image=settings.image, gpu=settings.gpu) as (package, values):
        cluster = server.open()
        name = f"{Path(pipeline).stem} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        run = cluster.start(name, cluster.experiment(settings.experiment), package, values)
    _say(cluster.link(run))
    if not wait:
        return
    try:
        while (run := cluster.run(run.id)).state not in ENDED:
            time.sleep(SECONDS)
    except (UserError, JobError) as error:
        raise type(error)(f"{error}; the run itself goes on") from None
    if run.state != "SUCCEEDED":
        tasks = f" in {', '.join(run.failed)}" if run.failed else ""
        why = f": {run.error}" if run.error else ""
        raise JobError(f"the run ended {run.state}{tasks}{why}; {cluster.link(run)}")
    _say(f"{run.name}: {run.state}")


@app.command(group=CLUSTER)
def schedule(
    name: str, pipeline: str, /, *, cron: str, server: Server, timezone: str = "UTC", settings: Settings = Settings()
) -> None:
    """Run a pipeline again and again, at set times; a schedule of the same name is replaced.

    For example:

        python -m pipelines schedule nightly retraining --cron '0 0 2 * * *' \\
            --image "$IMAGE" --host "$HOST"
        python -m pipelines schedule weekly ours.yaml --cron '0 30 3 * * 1' --host http://localhost:8888

    Args:
        name: the schedule's name
        pipeline: training, retraining, or a compiled .yaml
        cron: 'S M H D MON DOW': seconds, minutes, hours, day of month, month, day of week
        timezone: the zone in which the cluster reads cron
    """
    from pipelines.package import prepared

    times, zone = Cron.parse(cron), _zone(timezone)
    with prepared(pipeline, settings.params, image=settings.image, gpu=settings.gpu) as (package, values):
        cluster = server.open()
        for moment in islice(times.times(datetime.now(UTC), zone), 3):
            _say(f"{moment:{MINUTE}} {timezone}" + _in_utc(moment, timezone))
        group = cluster.experiment(settings.experiment)
        replaced = cluster.schedule(name, times.text, timezone, group, package, values)
    _say(f"{name}: scheduled" + (", in the place of the previous one" if replaced else ""))
    if timezone != "UTC":
        _say(f"Kubeflow has one zone for all schedules: its cronScheduleTimezone must be {timezone}")


@app.command(group=CLUSTER)
def unschedule(name: str, /, *, server: Server) -> None:
    """Remove the schedules of a name, if there are any.

    For example:

        python -m pipelines unschedule nightly --host https://kubeflow.example/pipeline
        python -m pipelines unschedule nightly --host http://localhost:8888 --namespace north

    Args:
        name: the schedule's name
    """
    removed = server.open().unschedule(name)
    _say(f"{name}: removed" if removed else f"{name}: there is no such schedule")


@app.command(name="list", group=CLUSTER)
def list_(*, server: Server, json: Json = False) -> None:
    """Show the schedules: when they run next, and how the last run ended.

    For example:

        python -m pipelines list --host https://kubeflow.example/pipeline
        python -m pipelines list --host http://localhost:8888 --json
    """
    cluster = server.open()
    rows = [_row(cluster, one) for one in sorted(cluster.schedules(), key=lambda one: one.name)]
    if json:
        keys = [word.lower().replace(" ", "_") for word in COLUMNS]
        print_json([dict(zip(keys, row, strict=True)) for row in rows])
        return
    if not rows:
        _say("no schedules")
        return
    widths = [max(map(len, column)) for column in zip(COLUMNS, *rows, strict=True)]
    for row in (COLUMNS, *rows):
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _row(cluster: "Cluster", schedule: "Schedule") -> tuple[str, ...]:
    last, upcoming = cluster.last_run(schedule), "-"
    if schedule.zone and schedule.enabled:
        try:
            moment = next(Cron.parse(schedule.cron).times(datetime.now(UTC), _zone(schedule.zone)))
            upcoming = f"{moment:{MINUTE}}" + _in_utc(moment, schedule.zone)
        except UserError:
            pass  # another program wrote what we cannot read
    return (
        schedule.name,
        schedule.cron or "-",
        schedule.zone or "-",
        "yes" if schedule.enabled else "no",
        upcoming,
        last.state if last else "-",
        f"{last.finished.astimezone(UTC):{MINUTE}} UTC" if last and last.finished else "-",
        cluster.link(last) if last else "-",
    )


def _in_utc(moment: datetime, timezone: str) -> str:
    return "" if timezone == "UTC" else f" ({moment.astimezone(UTC):{MINUTE}} UTC)"


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    known = available_timezones()
    if not known:
        raise UserError("this machine knows no time zones: pip install tzdata, or use UTC")
    if name not in known:
        near = get_close_matches(name, known, n=1)
        raise UserError(f"there is no time zone {name!r}: write one such as {(near or ['Europe/Berlin'])[0]}")
    return ZoneInfo(name)


def _say(line: str) -> None:
    print(redact(line), flush=True)


reflow(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return dbrnet.cli.run(app, arguments)


if __name__ == "__main__":
    sys.exit(main())
