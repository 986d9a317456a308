"""The audit's page: one HTML file that opens offline."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from dbrnet.audit.grouping import Link
from dbrnet.audit.result import Audit
from dbrnet.data.dataset import Dataset, Image
from dbrnet.evaluation.metrics import IGNORE_INDEX
from dbrnet.files import write_atomically
from dbrnet.overlay import blend
from dbrnet.reports.html import jpeg, render

PAGE = "audit.html"
PAIRS = 8  # of each kind
PANEL = 480, 320  # width and height within which an image is shown
LARGEST_SCALE = 1.5


@dataclass(frozen=True)
class Pair:
    """Two near-duplicates, the second laid on the first, each with its own mask."""

    link: Link
    agreement: float  # of their masks
    classes: tuple[str, str]
    panels: tuple[bytes, bytes]  # JPEG files


def write_audit(audit: Audit, folder: Path) -> None:
    """Write audit.json, links.csv and the page into `folder`."""
    audit.save(folder)
    write_atomically(folder / PAGE, render_audit(audit))


def render_audit(audit: Audit) -> str:
    """The whole page as HTML."""
    return render(
        "audit.html",
        title=f"Audit of {audit.dataset.card.title}",
        result=audit.result,
        label_checks=audit.label_checks,
        card=audit.dataset.card,
        disputed=audit.disputed,
        galleries={
            kind: [_pair(audit.dataset, link, audit.agreement[link]) for link in links]
            for kind, links in _chosen(audit)
        },
    )


def _chosen(audit: Audit) -> Sequence[tuple[str, list[Link]]]:
    """The links worth a look: labels that differ, parts pasted over, and the weakest of the rest."""
    aligned = [link for link in audit.groups.links if link.alignment is not None]
    aligned.sort(key=lambda link: link.alignment.score if link.alignment else 0)
    differing = audit.labelled_differently
    pasted = [link for link in aligned if link.evidence == "part of the image"]
    shown = {*differing, *pasted}
    rest = [link for link in aligned if link not in shown]
    return (
        ("One image, labelled differently", differing[:PAIRS]),
        ("A part is the same, the rest was pasted over", pasted[:PAIRS]),
        ("The weakest of the other matches", rest[:PAIRS]),
    )


def _pair(dataset: Dataset, link: Link, agreement: float) -> Pair:
    first, second = (dataset.by_id[id_] for id_ in (link.first, link.second))
    shape = first.height, first.width
    names = [info.name for info in dataset.card.classes]
    if link.alignment is None:
        raise ValueError("a link by names alone has no alignment")
    mask = link.alignment.lay(dataset.mask(second), shape)
    image = np.dstack([link.alignment.lay(channel, shape) for channel in np.moveaxis(dataset.image(second), 2, 0)])
    laid = blend(image, np.where(mask == IGNORE_INDEX, 0, mask).astype(np.uint8), dataset.card.classes)
    return Pair(
        link,
        agreement,
        (
            ", ".join(names[label] for label in first.classes) or "defect-free",
            ", ".join(names[label] for label in second.classes) or "defect-free",
        ),
        (_panel(blend(dataset.image(first), dataset.mask(first), dataset.card.classes)), _panel(laid)),
    )


def _panel(image: Image) -> bytes:
    height, width = image.shape[:2]
    scale = min(PANEL[0] / width, PANEL[1] / height, LARGEST_SCALE)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return jpeg(cv2.resize(image, size, interpolation=interpolation).astype(np.uint8))
