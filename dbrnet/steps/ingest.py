"""Step 1: read a dataset into the canonical form."""

import logging
import tempfile
from pathlib import Path

from dbrnet.data.building import build_dataset
from dbrnet.data.download import download, is_url
from dbrnet.files import atomic_directory
from dbrnet.params import IngestParams
from dbrnet.progress import progress

log = logging.getLogger(__name__)


def ingest(params: IngestParams, *, out: Path) -> None:
    """Read the dataset that params.yaml names, from its folder, archive or URL, into one canonical form.

    Every picture is decoded and every mask checked. Writes images/, masks/ (8-bit class ids), samples.csv
    and card.json under --out. The same content gives the same bytes, wherever it came from.
    """
    with atomic_directory(out) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source = download(params.source, Path(scratch)) if is_url(params.source) else Path(params.source)
        dataset = build_dataset(
            params.dataset, source, folder, mask_threshold=params.mask_threshold, progress=progress
        )
    card = dataset.card
    log.info(
        "%s: %d pictures in %d groups, content %s",
        card.title,
        card.images,
        card.groups,
        card.content_hash[:12],
    )
    for note in (*card.notes, card.leak_note):
        if note:
            log.info("note: %s", note)
