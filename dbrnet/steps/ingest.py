"""Step 1: read a dataset into the canonical form."""

import logging
import tempfile
from pathlib import Path

from dbrnet.config import IngestParams
from dbrnet.data.dataset import Dataset
from dbrnet.data.image_stats import read_image_stats, write_image_stats
from dbrnet.data.incremental import build_factory_dataset
from dbrnet.data.writer import build_dataset
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, require_apart
from dbrnet.progress import progress
from dbrnet.storage.source import fetch
from dbrnet.storage.source import revision as source_revision

log = logging.getLogger(__name__)


def ingest(params: IngestParams, *, out: Path) -> None:
    """Read the dataset that params.yaml names, from its folder, archive, URL or S3 prefix,
    into one canonical form.

    Every image is decoded and every mask checked. Writes images/, masks/ (8-bit class ids), samples.csv,
    card.json and image_stats.csv (each image's light and texture, for `dbrnet drift`) under --out. The same
    content gives the same bytes, wherever it came from. Own data (factory) adds quarantine.csv: what could
    not be used, and why.
    """
    require_apart(out, Path(params.source), "ingest.source")
    if params.previous:
        require_apart(out, Path(params.previous), "ingest.previous")
    with atomic_directory(out, "ingest") as folder, tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        source = fetch(params.source, Path(scratch), progress=progress)
        try:
            dataset = _build(params, source, folder)
        except UserError as error:  # name the source as the user does, not where it was fetched to
            raise UserError(str(error).replace(str(source), params.source)) from None
        known = read_image_stats(Dataset.load(Path(params.previous))) if params.previous else {}
        write_image_stats(dataset, known)
    card = dataset.card
    log.info("%s: %d images in %d groups, content %s", card.title, card.images, card.groups, card.content_hash[:12])
    for note in (*card.notes, card.leak_note):
        if note:
            log.info("note: %s", note)


def revision(params: IngestParams) -> str:
    """Tell whether the data's source has changed: 64 hex digits, others once it may hold something else.

    Nothing is read but the list of its files. A pipeline that finds them unchanged need not ingest again.
    """
    return source_revision(params.source)


def _build(params: IngestParams, source: Path, folder: Path) -> Dataset:
    if params.dataset != "factory":
        return build_dataset(params.dataset, source, folder, mask_threshold=params.mask_threshold)
    dataset, changes = build_factory_dataset(
        source,
        folder,
        classes=params.classes,
        bit_depth=params.bit_depth,
        previous=Path(params.previous) if params.previous else None,
        max_quarantine=params.max_quarantine,
    )
    log.info("batch: %s", changes)
    return dataset
