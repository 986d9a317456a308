"""The times of a cron expression, as Kubeflow's scheduler has them."""

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, takewhile
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbrnet.errors import UserError
from pipelines.cron import DAYS, MONTHS, Cron

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
def test_times_of_an_expression(cron: str, expected: list[str]) -> None:
    assert times(cron, len(expected)) == expected


def test_times_are_after_the_given_one() -> None:
    assert times("0 0 12 * * *", 1) == ["Sat 03-27 12:00:00"]


def test_a_skipped_hour_has_no_run() -> None:
    spring = times("0 30 2 * * *", zone="Europe/Berlin")
    assert spring == ["Sat 03-27 02:30:00", "Mon 03-29 02:30:00", "Tue 03-30 02:30:00"]


def test_a_repeated_hour_has_two_runs() -> None:
    autumn = datetime(2027, 10, 30, 12, tzinfo=UTC)
    found = list(islice(Cron.parse("0 30 2 * * *").times(autumn, ZoneInfo("Europe/Berlin")), 3))
    utc = [f"{moment.astimezone(UTC):%d %H:%M}" for moment in found]
    assert utc == ["31 00:30", "31 01:30", "01 01:30"]


ENTRIES = {
    "minutes": ("*", "0", "*/7", "15-45/10", "5,50", "10/20", "59"),
    "hours": ("*", "2", "0", "1-3", "*/5", "23", "0,2,12", "7/8"),
    "days": ("*", "?", "1", "28-31", "*/2", "15/9", "31,*/10"),
    "months": ("*", "3", "mar,oct", "10-11", "4", "*/3"),
    "weekdays": ("*", "0", "mon-fri", "*/2", "5/2", "?", "1,*/3"),
}
CLOCK_CHANGES = {  # the days before: by an hour at 2, by half an hour, at midnight, and never
    "Europe/Berlin": ((2027, 3, 27), (2027, 10, 30)),
    "America/New_York": ((2028, 3, 11), (2027, 11, 6)),
    "Australia/Lord_Howe": ((2027, 4, 3), (2027, 10, 2)),
    "America/Havana": ((2027, 3, 13), (2027, 11, 6)),
    "Asia/Beirut": ((2027, 3, 27), (2027, 10, 30)),
    "Asia/Tokyo": ((2027, 3, 27),),
}
STARTS = st.sampled_from([(zone, day) for zone, days in CLOCK_CHANGES.items() for day in days])


def values(entries: str, low: int, high: int, names: tuple[str, ...] = ()) -> set[int]:
    """What robfig/cron makes of a field."""
    numbers = {name: low + number for number, name in enumerate(names)}
    found = set[int]()
    for entry in entries.split(","):
        span, _, step = entry.partition("/")
        first, _, last = ("0" if span in "*?" else span).partition("-")
        start = low if span in "*?" else int(numbers.get(first, first))
        stop = high if span in "*?" or (step and not last) else int(numbers.get(last or first, last or first))
        found |= set(range(start, stop + 1, int(step or 1)))
    return found


@cache
def local_times(zone: ZoneInfo, start: datetime) -> dict[datetime, datetime]:
    """The local time of each minute of three days, by its instant."""
    instants = (start + timedelta(minutes=number) for number in range(3 * 1440))
    return {instant: instant.astimezone(zone) for instant in instants}


@given(STARTS, st.integers(0, 1439), *(st.sampled_from(entries) for entries in ENTRIES.values()))
@settings(max_examples=200, deadline=None)
def test_times_are_the_minutes_whose_local_time_matches(
    start: tuple[str, tuple[int, int, int]],
    minute: int,
    minutes: str,
    hours: str,
    days: str,
    months: str,
    weekdays: str,
) -> None:
    zone, midnight = ZoneInfo(start[0]), datetime(*start[1], tzinfo=UTC)
    after = midnight + timedelta(minutes=minute)
    allowed = [values(minutes, 0, 59), values(hours, 0, 23), values(months, 1, 12, MONTHS)]
    month_days, week_days = values(days, 1, 31), values(weekdays, 0, 6, DAYS)
    either_day = not {"*", "?"} & {entry[0] for entry in f"{days},{weekdays}".split(",")}

    def matches(local: datetime) -> bool:
        in_month, in_week = local.day in month_days, local.isoweekday() % 7 in week_days
        day = in_month or in_week if either_day else in_month and in_week
        return day and all(v in a for v, a in zip((local.minute, local.hour, local.month), allowed, strict=True))

    end = after + timedelta(days=2)
    times = local_times(zone, midnight).items()
    expected = [instant for instant, local in times if after < instant < end and matches(local)]
    cron = Cron.parse(f"0 {minutes} {hours} {days} {months} {weekdays}")
    found = [moment.astimezone(UTC) for moment in takewhile(lambda moment: moment < end, cron.times(after, zone))]
    assert found == expected


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
def test_a_wrong_field_is_named(cron: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        Cron.parse(cron)
    assert words in str(caught.value)
