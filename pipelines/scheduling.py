"""Schedules by name: replaced such that never two of one name are enabled.

Kubeflow changes a schedule in nothing but whether it is enabled, lets many have one name, and has no lock. So
a schedule is put in another's place in four steps:

1. make the new one, not enabled;
2. read all of that name; if one was made later, withdraw the new one and say so;
3. remove the others;
4. enable the new one, which fails if somebody has removed it meanwhile.

Two that do this at once cannot both pass: whoever made its own later sees the other's in step 2, and enables
its own only after it has removed the other's, which then can no longer be enabled. Killed between the steps,
the old one is still enabled, or for the moment none; what is left over goes when the command is run again.
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
    """Put a new schedule in the place of those called `name`; how many there were.

    Raises `JobError` where somebody else does the same at this moment and is ahead.
    """
    new = cluster.add_schedule(package, name, cron, description, experiment, parameters)
    known = cluster.schedules(name)
    others = [one for one in known if one.id != new.id]
    if len(others) == len(known) or any(_age(one) > _age(new) for one in others):
        cluster.remove(new)
        raise _overtaken(name)
    for other in others:
        cluster.remove(other)
    if not cluster.enable(new):
        raise _overtaken(name)
    return len(others)


def remove(cluster: Cluster, name: str) -> int:
    """Remove all schedules called `name`; how many there were."""
    found = cluster.schedules(name)
    for one in found:
        cluster.remove(one)
    return len(found)


def _age(schedule: Schedule) -> tuple[float, str]:
    return schedule.created.timestamp(), schedule.id


def _overtaken(name: str) -> JobError:
    return JobError(f"somebody else changed the schedule {name!r} at this moment; look at it with `list`")
