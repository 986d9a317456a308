"""Cron expressions as Kubeflow's scheduler reads them: six fields, the seconds first.

Kubeflow Pipelines parses cron with robfig/cron 1.2. Its client checks nothing, and its server takes five
fields too, but reads them as seconds, minutes, hours, day and month: `30 2 * * *`, meant as half past two each
night, would start a run every hour. So the check is here. The times come from cronsim, which combines the two
days as the scheduler does: either is enough, unless one of the fields has a star.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from itertools import groupby

from cronsim import CronSim, CronSimError

from dbrnet.errors import UserError

HORIZON = timedelta(days=5 * 366)  # how far ahead Kubeflow's scheduler looks for the next time
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_ENTRY = re.compile(
    r"(?P<span>[*?]|(?P<low>[a-z]+|\d+)(?P<high>-([a-z]+|\d+))?)(?P<step>/0*[1-9]\d*)?", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True)
class _Field:
    name: str
    low: int
    high: int
    names: tuple[str, ...] = ()  # of low, low + 1, ...

    def checked(self, text: str) -> str:
        """One entry of the field's list (`*`, `N`, `N-M`, perhaps with `/STEP`) in numbers; raises `ValueError`."""
        if not (entry := _ENTRY.fullmatch(text)):
            raise ValueError
        step = entry["step"] or ""
        if not entry["low"]:
            return f"*{step}"
        low = self._number(entry["low"])
        # The scheduler reads N/STEP as N to the field's end. cronsim ends the week with a second Sunday, 7.
        high = self._number(entry["high"][1:]) if entry["high"] else self.high if step else low
        if not self.low <= low <= high <= self.high:
            raise ValueError
        return f"{low}-{high}{step}" if high > low else str(low)

    def _number(self, text: str) -> int:
        return self.low + self.names.index(text.lower()) if text.lower() in self.names else int(text)

    def __str__(self) -> str:
        names = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"{self.low}-{self.high}{names}, a range such as {self.low}-{self.low + 1}, * or */2"


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
    """A checked cron expression: as the user wrote it, and in numbers alone."""

    text: str
    numbers: str

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
        numbers = []
        for word, field in zip(words, FIELDS, strict=True):
            entries = []
            for entry in word.split(","):
                try:
                    entries.append(field.checked(entry))
                except ValueError:
                    raise UserError(f"cron {text!r}, {field.name}: {entry!r} is not {field}") from None
            # cronsim looks for a star at the field's beginning only, the scheduler anywhere in the list.
            numbers.append(",".join(sorted(entries, key=lambda entry: entry[0] != "*")))
        cron = cls(" ".join(words), " ".join(numbers))
        try:
            if next(cron.times(datetime.now(UTC), UTC), None):
                return cron
        except CronSimError:
            pass
        raise UserError(f"cron {text!r}, day of month: the months given have no such day")

    def times(self, after: datetime, zone: tzinfo) -> Iterator[datetime]:
        """When runs start after `after`, for a scheduler whose clock is in `zone`; the times are in `zone`.

        As in Kubeflow's scheduler, an hour that the clocks skip has no runs, and one that they repeat has them
        twice. cronsim's own rule for a `zone` differs (2.8 even runs on for ever at some midnights), so it is
        given times without one.
        """
        first = datetime.combine(after.astimezone(zone), time()) - timedelta(seconds=1)
        for day, clock_times in groupby(CronSim(self.numbers, first), key=datetime.date):
            if day - first.date() > HORIZON:
                return
            local = [moment.replace(tzinfo=zone, fold=fold) for moment in clock_times for fold in (0, 1)]
            # A skipped time comes back from UTC as another; a time with one fold only comes twice.
            moments = {moment.astimezone(UTC) for moment in local if _exists(moment)}
            yield from (moment.astimezone(zone) for moment in sorted(moments) if moment > after)


def _exists(moment: datetime) -> bool:
    back = moment.astimezone(UTC).astimezone(moment.tzinfo)
    return back.replace(tzinfo=None) == moment.replace(tzinfo=None)
