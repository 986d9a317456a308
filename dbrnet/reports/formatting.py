"""How figures are written in the review's pages, and the templates that write them."""

from datetime import UTC, datetime

from jinja2 import Environment

from dbrnet.reports.decision_facts import Json
from dbrnet.reports.html import templates


def review_templates() -> Environment:
    """The room's templates, with the evaluation's for the look they share."""
    environment = templates()
    environment.filters |= {"figure": figure, "number": number, "signed": signed, "moment": moment}
    return environment


def figure(found: Json, share: bool) -> str:
    """The value as the tables show it: % for a share, two digits for a count."""
    value = found["value"]
    return f"{value:.2f}" if value is not None and not share else number(value, share)


def number(value: float | None, share: bool = False) -> str:
    """Four digits, or % with one; – where nothing is known."""
    if value is None:
        return "–"
    return (f"{100 * value:.1f}" if share else f"{value:.4g}").replace("-", "−")


def signed(value: float | None, share: bool = False) -> str:
    """A difference with its sign: points of a share, or a number."""
    if value is None:
        return "–"
    digits = 1 if share else 2
    text = f"{100 * value if share else value:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]  # no sign before a zero


def moment(time: str) -> str:
    """An ISO time to the minute, in UTC."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"
