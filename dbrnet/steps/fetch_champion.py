"""Step 5: the champion, and what it was trained on, from the registry."""

import logging
from pathlib import Path

from dbrnet.config import FetchChampionParams
from dbrnet.errors import UserError
from dbrnet.files import atomic_directory, sha256_file
from dbrnet.records import MODEL_FILE, ChampionRecord, ExportRecord, TrainRecord
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.store import open_store, retry_while_unavailable
from dbrnet.registry.versions import LINEAGE, TABLES, fetch_files, find_version

log = logging.getLogger(__name__)


@retry_while_unavailable
def fetch_champion(params: FetchChampionParams, exported: Path | None = None, *, out: Path) -> None:
    """Fetch the champion, which a candidate must not fall short of on the same images and machine.

    With --exported, the candidate, where that is the champion already, the version before it is fetched, so
    that a second run of the pipeline compares the same two. Writes champion.json and, where there is a
    champion, its model.onnx, its lineage.json, and the tables of its split, its dataset and its test images
    (a version that was registered without some lacks them) under --out: enough for `dbrnet drift`, and for
    split.previous.
    """
    name, store = params.model_name, open_store(Path.cwd())
    state = Ledger(store, name).state()
    candidate = find_version(store, name, ExportRecord.load(exported).model_sha256) if exported else None
    number = state.baseline(candidate)
    with atomic_directory(out, "fetch-champion") as folder:
        sha256 = since = lineage = None
        if number is not None:
            fetch_files(store, name, number, folder, [MODEL_FILE, LINEAGE, *TABLES])
            sha256 = sha256_file(folder / MODEL_FILE)  # a version that others registered may lack the tag
            since = state.since(number)
            try:
                lineage = TrainRecord.read(folder / LINEAGE) if (folder / LINEAGE).exists() else None
            except UserError as error:  # others or another version of dbrnet wrote it
                log.warning("the champion's lineage is not shown: %s", error)
        time = since.isoformat(timespec="seconds") if since else None
        ChampionRecord(model_name=name, version=number, sha256=sha256, since=time, lineage=lineage).save(folder)
    log.info("%s: the champion is %s", name, "none yet" if number is None else f"version {number}")
