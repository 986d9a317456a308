"""The times of a schedule, as Kubeflow's scheduler reads them: six fields, the seconds first.

Kubeflow Pipelines parses cron with robfig/cron 1.2. Its client checks nothing, and its server takes five
fields too, but reads them as seconds, minutes, hours, day and month: `30 2 * * *`, meant as half past two
each night, would start a run every hour. So the check is here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo

from dbrnet.errors import UserError

YEARS = 5  # how far Kubeflow's scheduler looks for the next time
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # of low, low + 1, ...


FIELDS = (
    _Field("seconds", 0, 59),
    _Field("minutes", 0, 59),
    _Field("hours", 0, 23),
    _Field("day of month", 1, 31),
    _Field("month", 1, 12, MONTHS),
    _Field("day of week", 0, 6, DAYS),
)


@dataclass(frozen=True)
class Cron:
    """A checked cron expression."""

    text: str
    fields: tuple[frozenset[int], ...]  # of each field the values at which a run starts
    either_day: bool  # both days are given: a run starts where one of them fits, not both

    @classmethod
    def parse(cls, text: str) -> "Cron":
        """Check `text`; a `UserError` names the field that is wrong, and what it may be."""
        words = text.split()
        if len(words) == 5:
            raise UserError(
                f"cron {text!r} has five fields and Kubeflow wants six, the seconds first: perhaps '0 {text}'"
            )
        if len(words) != len(FIELDS):
            names = ", ".join(field.name for field in FIELDS)
            raise UserError(f"cron {text!r} has {len(words)} fields and Kubeflow wants six: {names}")
        if words[0][0] in "*?" or not words[0].isalnum():
            raise UserError(f"cron {text!r}, seconds: {words[0]!r} would start several runs a minute; write 0")
        sets = tuple(frozenset(_values(word, field, text)) for word, field in zip(words, FIELDS, strict=True))
        starred = any(part[0] in "*?" for word in (words[3], words[5]) for part in word.split(","))
        cron = cls(" ".join(words), sets, either_day=not starred)
        if next(cron.times(datetime.now(UTC), UTC), None) is None:
            raise UserError(f"cron {text!r}, day of month: the months given have no such day")
        return cron

    def times(self, after: datetime, zone: tzinfo) -> Iterator[datetime]:
        """When runs start after `after`, for a scheduler whose clock is in `zone`; the times are in `zone`.

        An hour that the clocks leave out in spring has no runs, and one that they repeat in autumn has them
        twice: so does Kubeflow's scheduler.
        """
        first = after.astimezone(zone).date()
        for day in (first + timedelta(days) for days in range(YEARS * 366)):
            if self._has(day):
                yield from (moment for moment in self._moments(day, zone) if moment > after)

    def _has(self, day: date) -> bool:
        in_month = day.day in self.fields[3]
        in_week = day.isoweekday() % 7 in self.fields[5]
        fits = in_month or in_week if self.either_day else in_month and in_week
        return fits and day.month in self.fields[4]

    def _moments(self, day: date, zone: tzinfo) -> list[datetime]:
        seconds, minutes, hours = self.fields[:3]
        clock = (time(hour, minute, second) for hour in hours for minute in minutes for second in seconds)
        local = [datetime.combine(day, one, zone).replace(fold=fold) for one in clock for fold in (0, 1)]
        moments = {one.astimezone(UTC): one for one in local}
        return [
            moment.astimezone(zone)
            for moment, one in sorted(moments.items())
            if moment.astimezone(zone).replace(tzinfo=None) == one.replace(tzinfo=None)
        ]


def _values(word: str, field: _Field, text: str) -> Iterator[int]:
    """The values of one field: parts with commas between, each `*`, `N` or `N-M`, with `/STEP` perhaps."""
    for part in word.split(","):
        span, slash, step = part.partition("/")
        low, hyphen, high = span.partition("-")
        try:
            start, stop = (field.low, field.high) if span in {"*", "?"} else _span(low, high or low, field)
            stop = field.high if slash and not hyphen else stop
            every = _number(step) if slash else 1
            if not field.low <= start <= stop <= field.high or every < 1 or (hyphen and not high):
                raise ValueError
        except ValueError:
            raise UserError(f"cron {text!r}, {field.name}: {part!r} is not {_allowed(field)}") from None
        yield from range(start, stop + 1, every)


def _span(low: str, high: str, field: _Field) -> tuple[int, int]:
    """The two ends as numbers; raises `ValueError`."""
    start, stop = (
        field.low + field.names.index(end.lower()) if end.lower() in field.names else _number(end)
        for end in (low, high)
    )
    return start, stop


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError
    return int(text)


def _allowed(field: _Field) -> str:
    names = f" or {field.names[0]}-{field.names[-1]}" if field.names else ""
    return f"{field.low}-{field.high}{names}, a range such as {field.low}-{field.low + 1}, * or */2"
