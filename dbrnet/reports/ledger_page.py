"""The ledger's page: who was champion when, and every decision with its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise, zip_longest

from matplotlib.dates import AutoDateLocator, num2date
from matplotlib.ticker import MaxNLocator

from dbrnet.registry.ledger_state import Event, Outcome
from dbrnet.reports.html import render

WIDTH, HEIGHT = 960.0, 300.0  # of the timeline's view box
LEFT, RIGHT, TOP, BOTTOM = 52.0, 24.0, 28.0, 64.0  # around the plot; marks without mIoU lie in the bottom
TICKS = 6
DATES = 12  # at most
APART = 25.0  # between two marks
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)  # of an entry without a time

# outcome -> its sign, which tells it apart without colours, its style, and the sentence
OUTCOMES: dict[Outcome, tuple[str, str, str]] = {
    "promoted": ("✓", "promoted", "Version {version} became champion"),
    "approved": ("▲", "promoted", "Version {version} was approved and became champion"),
    "adopted": ("★", "promoted", "Version {version} was adopted as champion"),
    "rolled back": ("↩", "back", "Rolled back: version {version} is champion again"),
    "needs review": ("?", "review", "Version {version} waits for a person's review"),
    "rejected": ("✗", "rejected", "Version {version} was rejected"),
    "revoked": ("▼", "revoked", "Version {version} was revoked"),
    "superseded": ("○", "superseded", "The decision on version {version} has no effect"),
}


@dataclass(frozen=True)
class Mark:
    """An entry of the ledger in a sentence, and where its mark lies on the timeline."""

    event: Event
    sentence: str
    x: float
    y: float

    @property
    def time(self) -> str:
        """When it was entered, ISO."""
        return _time(self.event).isoformat(timespec="seconds")


@dataclass(frozen=True)
class Reign:
    """A champion from one entry to the one that ended it; None: until now."""

    version: int
    miou: float | None
    begin: Event
    end: Event | None
    x: float
    width: float
    y: float

    @property
    def since(self) -> str:
        """The day on which it became champion."""
        return f"{_time(self.begin):%Y-%m-%d}"

    @property
    def until(self) -> str:
        """The day on which it ended."""
        return "now" if self.end is None else f"{_time(self.end):%Y-%m-%d}"

    @property
    def days(self) -> int | None:
        """How long it was champion; None: it still is."""
        return None if self.end is None else (_time(self.end) - _time(self.begin)).days


def render_history(model_name: str, events: Sequence[Event]) -> str:
    """The ledger of `model_name` as one HTML file that opens offline; `events` the oldest first."""
    scale = _Scale.of(events)
    return render(
        "ledger.html",
        title=f"The ledger of {model_name}",
        marks=_marks(events, scale),
        reigns=_reigns(events, scale),
        champion=events[-1].champion_after if events else None,
        scale=scale,
        width=WIDTH,
        height=HEIGHT,
        unknown=scale.y(None),
        outcomes=OUTCOMES,
        kinds=dict.fromkeys(event.outcome for event in events),
    )


@dataclass(frozen=True)
class _Scale:
    """From times and mIoU to places on the timeline."""

    begin: datetime
    end: datetime
    low: float
    high: float
    miou: Mapping[int, float]  # of a version, as its latest decision measured it

    @classmethod
    def of(cls, events: Sequence[Event]) -> "_Scale":
        times = [_time(event) for event in events] or [EPOCH]
        miou = {
            event.entry.version: event.entry.figures.miou for event in events if event.entry.figures.miou is not None
        }
        values = list(miou.values()) or [0.0, 1.0]
        margin = max(0.1 * (max(values) - min(values)), 0.005)
        return cls(min(times), max(times), min(values) - margin, max(values) + margin, miou)

    def x(self, time: datetime) -> float:
        whole = (self.end - self.begin).total_seconds()
        share = (time - self.begin).total_seconds() / whole if whole else 0.0
        return round(LEFT + 14 + share * (WIDTH - LEFT - RIGHT - 28), 1)

    def y(self, miou: float | None) -> float:
        """The height of a mIoU; one that is not known lies beneath the plot."""
        if miou is None:
            return HEIGHT - BOTTOM + 18
        share = (miou - self.low) / (self.high - self.low)
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Heights and their mIoU in %."""
        steps = MaxNLocator(TICKS).tick_values(100 * self.low, 100 * self.high)
        return [(self.y(step / 100), f"{step:g}") for step in steps if self.low <= step / 100 <= self.high]

    @property
    def dates(self) -> list[tuple[float, str]]:
        """Round times on the axis: hours, days or months, as the ledger spans."""
        times = num2date(AutoDateLocator(maxticks=DATES, tz=UTC).tick_values(self.begin, self.end), tz=UTC)
        shown = [time for time in times if self.begin <= time <= self.end]
        apart = min((later - time for time, later in pairwise(shown)), default=timedelta(0))
        return [(self.x(time), _date(time, apart)) for time in shown]


def _date(time: datetime, apart: timedelta) -> str:
    """A date as short as its neighbours, so far `apart`, allow."""
    if apart >= timedelta(days=28):
        return f"{time:%b %Y}" if time.month == 1 else f"{time:%b}"
    if apart >= timedelta(days=1) or not (time.hour or time.minute or time.second):
        return f"{time:%b} {time.day}"
    return f"{time:%H:%M}" if apart >= timedelta(minutes=1) else f"{time:%H:%M:%S}"


def _marks(events: Sequence[Event], scale: _Scale) -> list[Mark]:
    """Each event with its mark, moved to the right where it would hide one before it."""
    marks: list[Mark] = []
    for event in events:
        x, y = scale.x(_time(event)), scale.y(scale.miou.get(event.entry.version))
        while any(abs(x - mark.x) < APART and abs(y - mark.y) < APART for mark in marks):
            x += 1
        marks.append(Mark(event, _sentence(event), x, y))
    return marks


def _sentence(event: Event) -> str:
    version, before, after = event.entry.version, event.champion_before, event.champion_after
    if before == after == version and event.outcome != "superseded":
        return f"Version {version} was champion already and stays: {event.outcome}."
    start = OUTCOMES[event.outcome][2].format(version=after if event.outcome == "rolled back" else version)
    if after == before:
        return start + ("; there is no champion." if after is None else f"; version {after} stays champion.")
    if after is None:
        return f"{start}; version {before} is champion no more, and there is no other."
    return start + (", the first one." if before is None else f", in place of version {before}.")


def _reigns(events: Sequence[Event], scale: _Scale) -> list[Reign]:
    changes = [event for event in events if event.champion_after != event.champion_before]
    reigns = []
    for begin, end in zip_longest(changes, changes[1:]):
        version = begin.champion_after
        if version is None:
            continue
        miou = scale.miou.get(version)
        left, right = scale.x(_time(begin)), WIDTH - RIGHT if end is None else scale.x(_time(end))
        reigns.append(Reign(version, miou, begin, end, left, round(right - left, 1), scale.y(miou)))
    return reigns


def _time(event: Event) -> datetime:
    return event.entry.time or EPOCH
