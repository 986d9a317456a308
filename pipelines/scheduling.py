"""Schedules by name: replaced so that never two of one name are enabled.

Kubeflow can change nothing of a schedule but whether it is enabled, allows many of one name, and has no lock.
So a schedule is replaced in four steps:

1. create the new one, not enabled;
2. read all of that name; if another was created later, remove the new one and report it;
3. remove the others;
4. enable the new one, which fails if somebody has removed it meanwhile.

Two processes that do this at once cannot both succeed. The one whose schedule is later sees the other's in
step 2, and enables its own only after it has removed the other's, which then can no longer be enabled. Killed
between the steps, the old one is still enabled, or for the moment none is; running the command again removes
what is left over.
"""

from collections.abc import Mapping
from pathlib import Path

from dbrnet.errors import JobError
from pipelines.client import Cluster, Schedule


def replace(
    cluster: Cluster,
    package: Path,
    name: str,
    cron: str,
    description: str,
    experiment: str,
    parameters: Mapping[str, str],
) -> int:
    """Replace the schedules called `name` by a new one; returns how many there were.

    Raises `JobError` where somebody else does the same at this moment and is ahead.
    """
    new = cluster.add_schedule(package, name, cron, description, experiment, parameters)
    schedules = cluster.schedules(name)
    others = [schedule for schedule in schedules if schedule.id != new.id]
    if len(others) == len(schedules) or any(_age(schedule) > _age(new) for schedule in others):
        cluster.remove(new)
        raise _overtaken(name)
    for schedule in others:
        cluster.remove(schedule)
    if not cluster.enable(new):
        raise _overtaken(name)
    return len(others)


def remove(cluster: Cluster, name: str) -> int:
    """Remove all schedules called `name`; returns how many there were."""
    schedules = cluster.schedules(name)
    for schedule in schedules:
        cluster.remove(schedule)
    return len(schedules)


def _age(schedule: Schedule) -> tuple[float, str]:
    return schedule.created.timestamp(), schedule.id


def _overtaken(name: str) -> JobError:
    return JobError(f"somebody else changed the schedule {name!r} at this moment; look at it with `list`")
