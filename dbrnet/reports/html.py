"""What the pages have in common: one HTML file each, which opens offline with all it shows inside."""

import base64

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates() -> Environment:
    """The pages' templates; a variable that is not given is an error."""
    environment = Environment(
        loader=PackageLoader("dbrnet.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    return environment


def data_uri(data: bytes, kind: str) -> str:
    """An image's file, of MIME type image/`kind`, as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _percent(share: float | None, digits: int = 1) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"
