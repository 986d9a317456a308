"""The commands that need a cluster: submit, schedule, unschedule, list."""

import argparse
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, available_timezones

from dbrnet.addresses import redact
from dbrnet.errors import JobError, UserError
from pipelines.cron import Cron
from pipelines.package import compiled, images, parameters

if TYPE_CHECKING:
    from pipelines.client import Cluster, Run, Schedule

ENDED = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
SECONDS = 10.0  # between two looks at a run that is waited for
MINUTE = "%Y-%m-%d %H:%M"
_ZONE = re.compile(r"cron in (\S+)")  # in a schedule's description


def add_commands(commands: Any) -> None:
    """Add the commands to argparse's `commands`."""
    command = _command(commands, "submit", submit, "start a run on a cluster")
    _add_package(command)
    command.add_argument("--wait", action="store_true", help="until it ends; the status is 0 where it succeeded")
    command = _command(commands, "schedule", schedule, "run a pipeline again and again, at set times")
    command.add_argument("name", metavar="NAME", help="the schedule's name; one of that name is replaced")
    _add_package(command)
    command.add_argument(
        "--cron",
        required=True,
        metavar="'S M H D MON DOW'",
        help="seconds, minutes, hours, day of month, month, day of week",
    )
    command.add_argument(
        "--timezone", default="UTC", metavar="ZONE", help="the zone in which the cluster reads cron (default: UTC)"
    )
    command = _command(commands, "unschedule", unschedule, "remove a schedule")
    command.add_argument("name", metavar="NAME", help="the schedule's name")
    _command(commands, "list", list_, "show the schedules: when they run next, and how the last run ended")


def _command(commands: Any, name: str, function: Callable[..., None], summary: str) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    command.set_defaults(function=function)
    command.add_argument(
        "--host", required=True, metavar="URL", help="the server's address, such as https://kubeflow.example/pipeline"
    )
    command.add_argument("--namespace", help="your profile's namespace, where Kubeflow serves many users")
    return command


def _add_package(command: argparse.ArgumentParser) -> None:
    command.add_argument("pipeline", metavar="PIPELINE", help="training, retraining, or a compiled .yaml")
    command.add_argument("--image", metavar="NAME@sha256:DIGEST", help="the image that its tasks run in")
    command.add_argument("--gpu", action="store_true", help="train, evaluate and measure on a GPU")
    command.add_argument(
        "--params",
        type=Path,
        default=Path("params.yaml"),
        metavar="FILE",
        help="the parameters' file (default: params.yaml)",
    )
    command.add_argument("--experiment", default="dbrnet", help="Kubeflow's group of runs (default: dbrnet)")


def submit(
    *,
    host: str,
    namespace: str | None,
    pipeline: str,
    image: str | None,
    gpu: bool,
    params: Path,
    experiment: str,
    wait: bool,
) -> None:
    """Start one run and print its link; with `wait`, a run that does not succeed is a `JobError`."""
    from pipelines.client import Cluster

    with compiled(pipeline, image=image, gpu=gpu) as package:
        values = parameters(package, params)
        _check_images(package)
        cluster = Cluster(host, namespace)
        name = f"{Path(pipeline).stem} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        run = cluster.start(package, name, cluster.experiment(experiment), values)
    _say(cluster.link(run))
    if wait:
        _wait(cluster, run)


def schedule(
    *,
    host: str,
    namespace: str | None,
    name: str,
    pipeline: str,
    image: str | None,
    gpu: bool,
    params: Path,
    experiment: str,
    cron: str,
    timezone: str,
) -> None:
    """Put a schedule in the place of those of its name, and print when it will run."""
    from pipelines.client import Cluster
    from pipelines.scheduling import replace

    times, zone = Cron.parse(cron), _zone(timezone)
    with compiled(pipeline, image=image, gpu=gpu) as package:
        values = parameters(package, params)
        _check_images(package)
        cluster = Cluster(host, namespace)
        for moment in islice(times.times(datetime.now(UTC), zone), 3):
            _say(f"{moment:{MINUTE}} {timezone}" + _in_utc(moment, timezone))
        group = cluster.experiment(experiment)
        previous = replace(cluster, package, name, times.text, f"cron in {timezone}", group, values)
    _say(f"{name}: scheduled" + (", in the place of the previous one" if previous else ""))
    if timezone != "UTC":
        _say(f"Kubeflow has one zone for all schedules: its cronScheduleTimezone must be {timezone}")


def unschedule(*, host: str, namespace: str | None, name: str) -> None:
    """Remove the schedules of this name, if there are any."""
    from pipelines.client import Cluster
    from pipelines.scheduling import remove

    removed = remove(Cluster(host, namespace), name)
    _say(f"{name}: removed" if removed else f"{name}: there is no such schedule")


def list_(*, host: str, namespace: str | None) -> None:
    """Print all schedules of the namespace as a table."""
    from pipelines.client import Cluster

    cluster = Cluster(host, namespace)
    rows = [_row(cluster, one) for one in sorted(cluster.schedules(), key=lambda one: one.name)]
    if not rows:
        _say("no schedules")
        return
    head = ("NAME", "CRON", "TIME ZONE", "ENABLED", "NEXT RUN", "LAST RESULT", "FINISHED", "LINK")
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        _say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _check_images(package: Path) -> None:
    """Refuse images that their registries do not have; where one does not say so, that is said."""
    from pipelines import image

    for name in images(package):
        found = image.in_registry(name)
        if found is False:
            raise UserError(f"its registry has no image {name}: is the digest right, and was it pushed?")
        if found is None:
            note = redact(f"note: the registry of {name} does not say here whether it has it")
            print(note, file=sys.stderr)  # noqa: T201


def _row(cluster: "Cluster", one: "Schedule") -> tuple[str, ...]:
    last = cluster.last_run(one)
    stated = _ZONE.search(one.description)
    return (
        one.name,
        one.cron or "-",
        stated[1] if stated else "-",
        "yes" if one.enabled else "no",
        _next(one.cron, stated[1]) if stated and one.enabled else "-",
        last.state if last else "-",
        f"{last.finished.astimezone(UTC):{MINUTE}} UTC" if last and last.finished else "-",
        cluster.link(last) if last else "-",
    )


def _next(cron: str, timezone: str) -> str:
    """When it runs next; a dash for what another program wrote and we cannot read."""
    try:
        moment = next(Cron.parse(cron).times(datetime.now(UTC), _zone(timezone)))
    except UserError:
        return "-"
    return f"{moment:{MINUTE}}" + _in_utc(moment, timezone)


def _in_utc(moment: datetime, timezone: str) -> str:
    return "" if timezone == "UTC" else f" ({moment.astimezone(UTC):{MINUTE}} UTC)"


def _wait(cluster: "Cluster", run: "Run") -> None:
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
    print(redact(line), flush=True)  # noqa: T201
