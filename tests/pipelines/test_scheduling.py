"""`schedule`, `unschedule` and `list`: what stands on the server, also with two at once or one killed."""

import threading
from collections.abc import Iterator
from datetime import timedelta
from itertools import combinations
from pathlib import Path

import pytest

from dbrnet.errors import JobError
from pipelines import client
from pipelines.client import Cluster
from tests.pipelines.conftest import Command
from tests.pipelines.kfp_server import Fault, KfpServer, Turns

NIGHTLY = ("--cron", "0 30 2 * * *")
VALUES = {"train": "{}", "drift": "{}"}


def test_schedule_creates_the_requested_schedule(cluster: KfpServer, command: Command) -> None:
    outcome = command("schedule", "nightly", "PACKAGE", *NIGHTLY, "--timezone", "Asia/Tokyo")
    assert (outcome.status, outcome.error) == (0, "")
    (made,) = cluster.schedules.values()
    assert made["display_name"] == "nightly"
    assert made["trigger"] == {"cron_schedule": {"cron": "0 30 2 * * *"}}
    assert (made["status"], made["no_catchup"], int(made["max_concurrency"])) == ("ENABLED", True, 1)
    assert made["description"] == "cron in Asia/Tokyo"
    assert set(made["runtime_config"]["parameters"]) == {"train", "drift"}
    assert made["pipeline_spec"]["pipeline_spec"]["pipelineInfo"]["name"] == "small"
    first, *more = outcome.out.splitlines()
    assert "02:30 Asia/Tokyo (" in first
    assert "17:30 UTC)" in first  # Japan has no summer time
    assert [line.count("02:30 Asia/Tokyo") for line in more] == [1, 1, 0, 0]
    assert more[2:] == [
        "nightly: scheduled",
        "Kubeflow has one zone for all schedules: its cronScheduleTimezone must be Asia/Tokyo",
    ]


def test_schedule_replaces_one_of_its_name_and_its_run_goes_on(cluster: KfpServer, command: Command) -> None:
    command("schedule", "nightly", "PACKAGE", *NIGHTLY)
    command("schedule", "Nightly", "PACKAGE", *NIGHTLY)  # another name, though not to the database
    (old,) = cluster.enabled("nightly")
    run = cluster.add_run(old)
    outcome = command("schedule", "nightly", "PACKAGE", "--cron", "0 0 4 * * SUN")
    assert "nightly: scheduled, in the place of the previous one" in outcome.out
    (new,) = cluster.enabled("nightly")
    assert new["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * SUN"
    assert len(cluster.schedules) == 2
    assert len(cluster.enabled("Nightly")) == 1
    assert cluster.most_enabled["nightly"] == 1
    assert run["state"] == "RUNNING"


def test_unschedule_twice_succeeds(cluster: KfpServer, command: Command) -> None:
    command("schedule", "nightly", "PACKAGE", *NIGHTLY)
    assert command("unschedule", "nightly").out == "nightly: removed\n"
    assert not cluster.schedules
    outcome = command("unschedule", "nightly")
    assert (outcome.status, outcome.out) == (0, "nightly: there is no such schedule\n")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--cron", "30 2 * * *"), "has five fields and Kubeflow wants six, the seconds first: perhaps"),
        (("--cron", "0 0 25 * * *"), "hours: '25' is not 0-23"),
        ((*NIGHTLY, "--timezone", "Europe/Berlim"), "no time zone 'Europe/Berlim': write one such as Europe/"),
        ((*NIGHTLY, "--timezone", "Europe"), "there is no time zone 'Europe'"),
        ((*NIGHTLY, "--timezone", "../UTC"), "there is no time zone '../UTC'"),
    ],
)
def test_a_wrong_time_is_one_line_and_nothing_is_sent(
    words: tuple[str, ...], line: str, cluster: KfpServer, command: Command
) -> None:
    command("schedule", "nightly", "PACKAGE", *words).is_one_line(2, line)
    assert not cluster.requests


def test_list_reads_all_pages(cluster: KfpServer, command: Command) -> None:
    for name in "abcde":
        command("schedule", name, "PACKAGE", *NIGHTLY)
    cluster.page = 2
    assert [line[0] for line in command("list").out.splitlines()[1:]] == [*"abcde"]


def test_list_shows_the_next_run_and_the_last_result(cluster: KfpServer, command: Command) -> None:
    assert command("list").out == "no schedules\n"
    command("schedule", "nightly", "PACKAGE", *NIGHTLY, "--timezone", "Asia/Tokyo")
    command("schedule", "weekly", "PACKAGE", "--cron", "0 0 4 * * SUN")
    (nightly,), (weekly,) = cluster.enabled("nightly"), cluster.enabled("weekly")
    weekly["status"] = "DISABLED"
    cluster.add_run(nightly, state="SUCCEEDED", finished_at="2026-11-02T18:10:00Z")
    last = cluster.add_run(nightly, state="FAILED", finished_at="2026-11-03T18:20:00Z")
    head, first, second = command("list").out.splitlines()
    assert head.split("  ")[0] == "NAME"
    for words in ("nightly", "0 30 2 * * *", "Asia/Tokyo", "yes", " 02:30 (", " 17:30 UTC)", "FAILED"):
        assert words in first
    assert "2026-11-03 18:20 UTC" in first
    assert first.endswith(f"{cluster.address}/#/runs/details/{last['run_id']}")
    assert second.split() == ["weekly", "0", "0", "4", "*", "*", "SUN", "UTC", "no", "-", "-", "-", "-"]


def test_list_shows_schedules_of_other_programs(cluster: KfpServer, command: Command) -> None:
    """By the page or another program: without a zone of ours, with a cron we do not read, or with none."""
    command("schedule", "nightly", "PACKAGE", *NIGHTLY)
    (made,) = cluster.enabled("nightly")
    made |= {"description": "by hand"}
    other = made | cluster.stamp("recurring_run_id") | {"display_name": "hourly", "description": "cron in UTC"}
    other["trigger"] = {"cron_schedule": {"cron": "30 2 * * *"}}
    third = made | cluster.stamp("recurring_run_id") | {"display_name": "often"}
    third["trigger"] = {"periodic_schedule": {"interval_second": "60"}}
    for one in (other, third):
        cluster.schedules[one["recurring_run_id"]] = one
    outcome = command("list")
    assert outcome.status == 0
    rows = [line.split() for line in outcome.out.splitlines()[1:]]
    assert rows[0] == ["hourly", "30", "2", "*", "*", "*", "UTC", "yes", "-", "-", "-", "-"]
    assert rows[1] == ["nightly", "0", "30", "2", "*", "*", "*", "-", "yes", "-", "-", "-", "-"]
    assert rows[2] == ["often", "-", "-", "yes", "-", "-", "-", "-"]


def test_each_profile_has_its_own_schedules(cluster: KfpServer, command: Command) -> None:
    cluster.multi_user = True
    command("list").is_one_line(2, "name your profile's namespace with --namespace")
    for profile in ("north", "south"):
        assert command("schedule", "nightly", "PACKAGE", *NIGHTLY, "--namespace", profile).status == 0
    assert len(cluster.enabled("nightly")) == 2
    assert command("unschedule", "nightly", "--namespace", "north").status == 0
    assert command("list", "--namespace", "north").out == "no schedules\n"
    assert "nightly" in command("list", "--namespace", "south").out
    assert len(cluster.enabled("nightly")) == 1


def test_a_lost_response_leaves_no_two_enabled(cluster: KfpServer, command: Command) -> None:
    """A new one whose answer was lost stays behind, not enabled, until the command is run again."""
    command("schedule", "nightly", "PACKAGE", *NIGHTLY)
    cluster.faults.append(Fault("lost", "POST", ".*/recurringruns", times=1))
    assert command("schedule", "nightly", "PACKAGE", *NIGHTLY).status == 1
    assert (len(cluster.schedules), len(cluster.enabled("nightly"))) == (2, 1)
    assert command("schedule", "nightly", "PACKAGE", *NIGHTLY).status == 0
    assert (len(cluster.schedules), len(cluster.enabled("nightly"))) == (1, 1)
    assert cluster.most_enabled["nightly"] == 1


@pytest.mark.parametrize("path", ["GET .*/recurringruns", "DELETE .*", "POST .*:enable"])
def test_retries_outlast_a_short_outage(path: str, cluster: KfpServer, command: Command) -> None:
    command("schedule", "nightly", "PACKAGE", *NIGHTLY)
    method, where = path.split()
    cluster.faults += [Fault(503, method, where, times=1), Fault("lost", method, where, times=2)]
    assert command("schedule", "nightly", "PACKAGE", "--cron", "0 0 4 * * *").status == 0
    (only,) = cluster.schedules.values()
    assert (only["status"], only["trigger"]["cron_schedule"]["cron"]) == ("ENABLED", "0 0 4 * * *")


@pytest.mark.parametrize("requests", range(9))
def test_a_kill_after_any_request_leaves_at_most_one_enabled(
    requests: int, cluster: KfpServer, command: Command
) -> None:
    command("schedule", "nightly", "PACKAGE", *NIGHTLY)
    cluster.allowed = requests  # nothing of what comes after arrives, as if the process had been killed
    status = command("schedule", "nightly", "PACKAGE", "--cron", "0 0 4 * * *").status
    assert status == (0 if requests >= 6 else 1)
    assert len(cluster.enabled("nightly")) <= 1
    cluster.allowed = None
    assert command("schedule", "nightly", "PACKAGE", "--cron", "0 0 4 * * *").status == 0
    (only,) = cluster.schedules.values()
    assert (only["status"], only["trigger"]["cron_schedule"]["cron"]) == ("ENABLED", "0 0 4 * * *")
    assert cluster.most_enabled["nightly"] == 1


def orders(each: int) -> Iterator[str]:
    """All ways in which the requests of A and B, `each` of them, can come one after the other."""
    for places in combinations(range(2 * each), each):
        yield "".join("A" if place in places else "B" for place in range(2 * each))


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 1])  # whether the two are made in the same second
def test_two_processes_in_every_order_leave_one_enabled(
    seconds: int, cluster: KfpServer, package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.tick *= seconds
    clusters = {}
    for who in "AB":
        monkeypatch.setenv(client.TOKEN, who)
        clusters[who] = Cluster(cluster.address, None)
    experiment = clusters["A"].experiment("dbrnet")
    clusters["A"].schedule("nightly", "0 0 1 * * *", "UTC", experiment, package, VALUES)
    (before,) = cluster.enabled("nightly")
    ended = dict[str, str]()

    def put(who: str) -> None:
        try:
            clusters[who].schedule("nightly", "0 0 2 * * *", who, experiment, package, VALUES)
            ended[who] = "done"
        except JobError as error:
            ended[who] = str(error)
        finally:
            assert cluster.turns
            cluster.turns.gone(who)

    for order in orders(4):
        cluster.now += timedelta(seconds=1)
        cluster.schedules = {before["recurring_run_id"]: dict(before)}
        cluster.most_enabled.clear()
        cluster.turns = Turns(order)
        threads = [threading.Thread(target=put, args=who) for who in "AB"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert cluster.most_enabled["nightly"] == 1, order
        (only,) = cluster.schedules.values()
        assert only["status"] == "ENABLED", order
        assert ended[only["description"][-1]] == "done", order
        overtaken = [why for why in ended.values() if why != "done"]
        assert all("somebody else changed the schedule 'nightly'" in why for why in overtaken), (order, ended)
