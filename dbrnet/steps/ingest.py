"""Step 1: read a dataset into the canonical form."""

import logging
import tempfile
from pathlib import Path

from dbrnet.data.building import build_dataset
from dbrnet.data.source import fetch
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory
from dbrnet.params import IngestParams
from dbrnet.progress import progress

log = logging.getLogger(__name__)


def ingest(params: IngestParams, *, out: Path) -> None:
    """Read the dataset that params.yaml names, from its folder, archive, URL or S3 prefix,
    into one canonical form.

    Every picture is decoded and every mask checked. Writes images/, masks/ (8-bit class ids), samples.csv
    and card.json under --out. The same content gives the same bytes, wherever it came from.
    """
    with atomic_directory(out) as folder, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source = fetch(params.source, Path(scratch), progress=progress)
        try:
            dataset = build_dataset(
                params.dataset, source, folder, mask_threshold=params.mask_threshold, progress=progress
            )
        except UserError as error:  # name the source as the user does, not where it was fetched to
            raise UserError(str(error).replace(str(source), params.source)) from None
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
