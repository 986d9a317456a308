"""The times of a cron expression, as Kubeflow's scheduler has them."""

from datetime import UTC, datetime
from itertools import islice
from zoneinfo import ZoneInfo, available_timezones

import pytest

from dbrnet.errors import UserError
from pipelines.cron import Cron

MARCH = datetime(2027, 3, 26, 12, tzinfo=UTC)  # a Friday; Berlin's clocks go forward on the 28th at 2


def times(cron: str, count: int = 3, after: datetime = MARCH, zone: str = "UTC") -> list[str]:
    if zone not in available_timezones():
        pytest.skip("needs the time zones: apt-get install tzdata")
    found = Cron.parse(cron).times(after, ZoneInfo(zone))
    return [f"{moment:%a %m-%d %H:%M:%S}" for moment in islice(found, count)]


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 30 2 * * *", ["Sat 03-27 02:30:00", "Sun 03-28 02:30:00", "Mon 03-29 02:30:00"]),
        ("5 0 12 * * ?", ["Fri 03-26 12:00:05", "Sat 03-27 12:00:05", "Sun 03-28 12:00:05"]),
        ("0 0 */8 * * *", ["Fri 03-26 16:00:00", "Sat 03-27 00:00:00", "Sat 03-27 08:00:00"]),
        ("0 0 7/8 * * *", ["Fri 03-26 15:00:00", "Fri 03-26 23:00:00", "Sat 03-27 07:00:00"]),
        ("0 0,45 13 * * *", ["Fri 03-26 13:00:00", "Fri 03-26 13:45:00", "Sat 03-27 13:00:00"]),
        ("0 0 2 * * mon-Wed", ["Mon 03-29 02:00:00", "Tue 03-30 02:00:00", "Wed 03-31 02:00:00"]),
        ("0 0 2 * * 0", ["Sun 03-28 02:00:00", "Sun 04-04 02:00:00", "Sun 04-11 02:00:00"]),
        ("0 0 2 1 * *", ["Thu 04-01 02:00:00", "Sat 05-01 02:00:00", "Tue 06-01 02:00:00"]),
        ("0 0 2 1 JUL,AUG *", ["Thu 07-01 02:00:00", "Sun 08-01 02:00:00", "Sat 07-01 02:00:00"]),
        # both days are given: either will do
        ("0 0 2 30 * SAT", ["Sat 03-27 02:00:00", "Tue 03-30 02:00:00", "Sat 04-03 02:00:00"]),
        # a star with a step is a star to this version: both must fit
        ("0 0 2 */2 * SAT", ["Sat 03-27 02:00:00", "Sat 04-03 02:00:00", "Sat 04-17 02:00:00"]),
        ("0 0 2 29 2 *", ["Tue 02-29 02:00:00"]),
    ],
)
def test_times(cron: str, expected: list[str]) -> None:
    assert times(cron, len(expected)) == expected


def test_the_time_itself_is_past() -> None:
    assert times("0 0 12 * * *", 1) == ["Sat 03-27 12:00:00"]


def test_an_hour_that_is_left_out_has_no_run() -> None:
    spring = times("0 30 2 * * *", zone="Europe/Berlin")
    assert spring == ["Sat 03-27 02:30:00", "Mon 03-29 02:30:00", "Tue 03-30 02:30:00"]


def test_an_hour_that_is_repeated_has_two() -> None:
    autumn = datetime(2027, 10, 30, 12, tzinfo=UTC)
    found = list(islice(Cron.parse("0 30 2 * * *").times(autumn, ZoneInfo("Europe/Berlin")), 3))
    utc = [f"{moment.astimezone(UTC):%d %H:%M}" for moment in found]
    assert utc == ["31 00:30", "31 01:30", "01 01:30"]


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("30 2 * * *", "five fields and Kubeflow wants six, the seconds first: perhaps '0 30 2 * * *'"),
        ("", "has 0 fields"),
        ("@daily", "has 1 fields"),
        ("CRON_TZ=Europe/Berlin 0 0 2 * * *", "has 7 fields"),
        ("* 0 2 * * *", "seconds: '*' would start several runs a minute; write 0"),
        ("0,30 0 2 * * *", "seconds: '0,30' would start several runs a minute"),
        ("60 0 2 * * *", "seconds: '60' is not 0-59"),
        ("0 -1 2 * * *", "minutes: '-1' is not 0-59"),
        ("0 1_0 2 * * *", "minutes: '1_0'"),
        ("0 0 24 * * *", "hours: '24' is not 0-23"),
        ("0 0 5-2 * * *", "hours: '5-2'"),
        ("0 0 2- * * *", "hours: '2-'"),
        ("0 0 2,, * * *", "hours: ''"),
        ("0 0 */0 * * *", "hours: '*/0'"),
        ("0 0 */ * * *", "hours: '*/'"),
        ("0 0 ２ * * *", "hours: '２'"),
        ("0 0 2 0 * *", "day of month: '0' is not 1-31"),
        ("0 0 2 L * *", "day of month: 'L'"),
        ("0 0 2 31 2,4 *", "day of month: the months given have no such day"),
        ("0 0 2 * 13 *", "month: '13' is not 1-12 or jan-dec"),
        ("0 0 2 * * 7", "day of week: '7' is not 0-6 or sun-sat"),
        ("0 0 2 * * 1#2", "day of week: '1#2'"),
    ],
)
def test_nonsense_is_named(cron: str, words: str) -> None:
    with pytest.raises(UserError) as told:
        Cron.parse(cron)
    assert words in str(told.value)
