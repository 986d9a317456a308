"""What the pages share: the palette, the templates, and how numbers, images and leaks are written into them."""

import base64
from datetime import UTC, datetime

import cv2
from jinja2 import Environment, PackageLoader, StrictUndefined

from dbrnet.data.dataset import Image
from dbrnet.records import Estimate, SplitFacts, Unit, format_value

# The colours of all pages (as CSS variables) and plots. Accent and "worse" stay apart for the colour-blind.
COLORS = {
    "ink": "#1f2933",
    "soft": "#52606d",
    "faint": "#cbd2d9",
    "line": "#d9dfe5",
    "paper": "#ffffff",
    "panel": "#f5f7f9",
    "accent": "#1f5fa8",
    "accent-pale": "#e8f0fa",
    "alarm": "#b42318",
    "alarm-pale": "#fdecea",
    "good": "#2f7d4f",
    "good-pale": "#eaf6ee",
    "worse": "#a63a0a",
    "worse-pale": "#fdeee6",
    "open": "#7a5b00",
    "open-pale": "#fdf4d8",
    "back": "#6a3d9a",
    "track": "#eef1f4",
    "passing": "#d5e0ec",
}
JPEG_QUALITY = 85
WIDE = 2.0  # width / height from which an image's panels are stacked, not set side by side


def render(template: str, **values: object) -> str:
    """The page as HTML; a variable that is not given is an error."""
    environment = Environment(
        loader=PackageLoader("dbrnet.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["colors"] = COLORS
    environment.filters |= {
        "number": _number,
        "estimate": _estimate,
        "moment": moment,
        "css": css,
        "jpeg": lambda data: data_uri(data, "jpeg"),
    }
    return environment.get_template(template).render(**values)


def data_uri(data: bytes, kind: str) -> str:
    """An image's file, of MIME type image/`kind`, as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def jpeg(image: Image) -> bytes:
    """The image, RGB [H, W, 3], as a JPEG file."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def leak_statement(split: SplitFacts) -> tuple[bool, str]:
    """Whether the scores on this split leak, and the sentence that says so."""
    if split.leaks != "yes":
        return False, "No known leak: the audit found no test image that is a near-copy of a training image."
    rate = split.leak_rate.get("test")
    counted = "Test images" if rate is None else f"{format_value(rate, 'share')} of the test images"
    return True, f"LEAKS: {counted} have a near-copy in training. The scores measure memory as much as skill."


def css(color: tuple[int, int, int]) -> str:
    """An RGB colour as CSS writes it."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def moment(time: str) -> str:
    """An ISO time to the minute, in UTC."""
    return f"{datetime.fromisoformat(time).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _number(value: float | None, unit: Unit = "share", *, bare: bool = False) -> str:
    return format_value(value, unit, bare=bare)


def _estimate(figure: Estimate, *, bare: bool = False) -> str:
    """The value alone: the interval stands beneath it."""
    return format_value(figure.value, figure.unit, bare=bare)
