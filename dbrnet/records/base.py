"""What all records have in common: immutable parts, figures with intervals, and reading and writing a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from dbrnet.errors import UserError
from dbrnet.files import read_json, write_json

SCHEMA_VERSION = 1  # of all records: raised with any change to their fields
MISSING = "–"

Unit = Literal["share", "points", "count", "difference", "ratio", "fps", "ms", "number"]


class _Format(NamedTuple):
    scale: float
    spec: str  # of the number, without its digits
    digits: int
    suffix: str = ""


_FORMATS: dict[Unit, _Format] = {
    "share": _Format(100, "f", 1, " %"),
    "points": _Format(100, "+f", 1, " points"),  # the difference of two shares
    "count": _Format(1, "f", 2),
    "difference": _Format(1, "+f", 2),  # of two counts
    "ratio": _Format(1, "f", 2),
    "fps": _Format(1, "f", 1),
    "ms": _Format(1, "f", 1),
    "number": _Format(1, "g", 4),
}


def format_value(value: float | None, unit: Unit, *, bare: bool = False, extra: int = 0) -> str:
    """The one form of numbers for people: percent with one decimal, "–" where there is none.

    `bare` leaves the unit out, for tables that name it in the heading. `extra` digits tell close values apart.
    """
    if value is None:
        return MISSING
    scale, spec, digits, suffix = _FORMATS[unit]
    sign, kind = spec[:-1], spec[-1]
    scaled = scale * value
    text = f"{scaled:{sign}.{digits + extra}{kind}}"
    if kind == "f" and scaled and not float(text):
        text = f"{scaled:{sign}.2g}"  # as "0.0" it would read as nothing at all
    if not float(text):
        text = text.lstrip("+-")
    return text.replace("-", "−") + ("" if bare else suffix)


class Part(BaseModel):
    """What a record consists of: immutable, without unknown fields, infinity or NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Estimate(Part):
    """A figure with its confidence interval.

    The value is None where it is undefined or was not measured, the interval where the data do not suffice.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    unit: Unit = "number"

    @property
    def interval(self) -> str:
        """Such as "74.5 to 76.9", without the unit; empty where there is none."""
        return self._interval(0)

    def text(self, *, bare: bool = False, extra: int = 0) -> str:
        """Such as "75.7 % (74.5 to 76.9)"; `bare` and `extra` as in `format_value`."""
        value, interval = format_value(self.value, self.unit, bare=bare, extra=extra), self._interval(extra)
        return f"{value} ({interval})" if interval else value

    def _interval(self, extra: int) -> str:
        if self.low is None or self.high is None:
            return ""
        return " to ".join(format_value(end, self.unit, bare=True, extra=extra) for end in (self.low, self.high))

    def __str__(self) -> str:
        return self.text()


class Record(Part):
    """One JSON file of a step's folder. Raised errors are one line and name the step to run."""

    FILE: ClassVar[str]
    STEP: ClassVar[str]

    schema_version: int = SCHEMA_VERSION

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The record in the folder that the step wrote. Raises `UserError` as `read` does."""
        return cls.read(folder / cls.FILE)

    @classmethod
    def read(cls, path: Path) -> Self:
        """The record in the file `path`; `UserError` where it is missing, broken, foreign or of another version."""
        again = f"run `dbrnet {cls.STEP}` again"
        version = read_json(path).get("schema_version")
        if version != SCHEMA_VERSION:
            raise UserError(f"{path} has schema version {version}, and this dbrnet reads {SCHEMA_VERSION}; {again}")
        try:
            return cls.model_validate_json(path.read_bytes(), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            reason = ": ".join(filter(None, [".".join(map(str, first["loc"])), first["msg"]]))
            raise UserError(f"{path} is not what `dbrnet {cls.STEP}` writes ({reason}); {again}") from None

    def save(self, folder: Path) -> None:
        """Write the record's file into `folder`, atomically."""
        write_json(folder / self.FILE, self.model_dump(mode="json"))


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with keys such as "model.lfem"."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return flat
