"""The ledger's page: who was champion when, and every decision with its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise, zip_longest
from typing import Any

from matplotlib.dates import AutoDateLocator, num2date
from matplotlib.ticker import MaxNLocator

from dbrnet.reports.formatting import review_templates

WIDTH, HEIGHT = 960.0, 300.0  # of the timeline's view box
LEFT, RIGHT, TOP, BOTTOM = 52.0, 24.0, 28.0, 64.0  # around the plot; marks without mIoU lie in the bottom
TICKS = 6
DATES = 12  # at most
APART = 25.0  # between two marks

# outcome -> its sign, which tells it apart without colours, its style, and the sentence
OUTCOMES = {
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
class Entry:
    """An entry of the ledger as the page shows it, and where its mark lies on the timeline."""

    row: Mapping[str, Any]
    sign: str
    style: str
    sentence: str
    figures: Mapping[str, float | None]  # miou, difference and fps
    x: float
    y: float


@dataclass(frozen=True)
class Reign:
    """A champion from one entry to the one that ended it; None: until now."""

    version: int
    miou: float | None
    begin: Mapping[str, Any]
    end: Mapping[str, Any] | None
    x: float
    width: float
    y: float

    @property
    def days(self) -> int | None:
        """How long it was champion; None: it still is."""
        return None if self.end is None else (_time(self.end) - _time(self.begin)).days


def render_history(model_name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The ledger of `model_name` as one HTML file that opens offline.

    A row an entry, the oldest first: `number`, `time` (ISO), `outcome` (promoted, rejected, needs review,
    approved, revoked, rolled back, adopted or superseded), `version`, `why` (a sentence), `by`,
    `champion_before` and `champion_after` (None: none), `figures` (any of miou, fps, difference).
    """
    scale = _Scale.of(rows)
    return (
        review_templates()
        .get_template("ledger.html")
        .render(
            model_name=model_name,
            entries=_entries(rows, scale),
            reigns=_reigns(rows, scale),
            champion=rows[-1]["champion_after"] if rows else None,
            scale=scale,
            width=WIDTH,
            height=HEIGHT,
            unknown=scale.y(None),
            kinds={outcome: OUTCOMES[outcome] for outcome in dict.fromkeys(row["outcome"] for row in rows)},
        )
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
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> "_Scale":
        times = [_time(row) for row in rows] or [datetime.fromisoformat("2000-01-01T00:00:00+00:00")]
        miou = {row["version"]: row["figures"]["miou"] for row in rows if "miou" in row["figures"]}
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
        """Round times on the axis: hours, days or months, as the ledger reaches over little or much."""
        found = num2date(AutoDateLocator(maxticks=DATES, tz=UTC).tick_values(self.begin, self.end), tz=UTC)
        shown = [time for time in found if self.begin <= time <= self.end]
        apart = min((later - time for time, later in pairwise(shown)), default=timedelta(0))
        return [(self.x(time), _date(time, apart)) for time in shown]


def _date(time: datetime, apart: timedelta) -> str:
    """A date as short as its neighbours, so far `apart`, allow."""
    if apart >= timedelta(days=28):
        return f"{time:%b %Y}" if time.month == 1 else f"{time:%b}"
    if apart >= timedelta(days=1) or not (time.hour or time.minute or time.second):
        return f"{time:%b} {time.day}"
    return f"{time:%H:%M}" if apart >= timedelta(minutes=1) else f"{time:%H:%M:%S}"


def _entries(rows: Sequence[Mapping[str, Any]], scale: _Scale) -> list[Entry]:
    """Each row with its mark, moved to the right where it would hide one before it."""
    found: list[Entry] = []
    for row in rows:
        sign, style, _ = OUTCOMES[row["outcome"]]
        figures = {name: row["figures"].get(name) for name in ("miou", "difference", "fps")}
        x, y = scale.x(_time(row)), scale.y(scale.miou.get(row["version"]))
        while any(abs(x - one.x) < APART and abs(y - one.y) < APART for one in found):
            x += 1
        found.append(Entry(row, sign, style, _sentence(row), figures, x, y))
    return found


def _sentence(row: Mapping[str, Any]) -> str:
    version, before, after = row["version"], row["champion_before"], row["champion_after"]
    if before == after == version and row["outcome"] != "superseded":
        return f"Version {version} was champion already and stays: {row['outcome']}."
    start = OUTCOMES[row["outcome"]][2].format(version=after if row["outcome"] == "rolled back" else version)
    if after == before:
        return start + ("; there is no champion." if after is None else f"; version {after} stays champion.")
    if after is None:
        return f"{start}; version {before} is champion no more, and nobody is."
    return start + (", the first one." if before is None else f", in place of version {before}.")


def _reigns(rows: Sequence[Mapping[str, Any]], scale: _Scale) -> list[Reign]:
    changes = [row for row in rows if row["champion_after"] != row["champion_before"]]
    found = []
    for begin, end in zip_longest(changes, changes[1:]):
        version = begin["champion_after"]
        if version is None:
            continue
        miou = scale.miou.get(version)
        left, right = scale.x(_time(begin)), WIDTH - RIGHT if end is None else scale.x(_time(end))
        found.append(Reign(version, miou, begin, end, left, round(right - left, 1), scale.y(miou)))
    return found


def _time(row: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(row["time"])
