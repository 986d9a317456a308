"""Step 5: the champion, and what it was trained on, from the registry."""

import logging
from pathlib import Path

from dbrnet.config import FetchChampionParams
from dbrnet.files import atomic_directory, read_json, sha256_file, write_json
from dbrnet.registry.ledger import Ledger
from dbrnet.registry.store import open_store, patient
from dbrnet.registry.versions import LINEAGE, MODEL, TABLES, fetch_files, find_version

log = logging.getLogger(__name__)


@patient
def fetch_champion(params: FetchChampionParams, exported: Path | None = None, *, out: Path) -> None:
    """Fetch the champion, of which a candidate must not fall short on the same images and machine.

    With --exported, the candidate, where that is the champion already it is the one whose place it took, so
    that a second run of the pipeline compares the same two. Writes champion.json and, where there is a
    champion, its model.onnx, its lineage.json, and the tables of its split, its dataset and its test images
    (a version that was registered without some lacks them) under --out: enough for `dbrnet drift`, and for
    split.previous.
    """
    name, store = params.model_name, open_store(Path.cwd())
    state = Ledger(store, name).state()
    digest = read_json(exported / "export.json")["model_sha256"] if exported else None
    number = state.baseline(find_version(store, name, digest) if digest else None)
    sha256 = since = lineage = None
    with atomic_directory(out, "fetch-champion") as folder:
        if number is not None:
            fetch_files(store, name, number, folder, [MODEL, LINEAGE, *TABLES])
            sha256 = sha256_file(folder / MODEL)  # of a version that others registered no tag may tell it
            since = state.since(number)
            lineage = read_json(folder / LINEAGE) if (folder / LINEAGE).exists() else None
        facts = {
            "model_name": name,
            "version": number,
            "sha256": sha256,
            "since": since and since.isoformat(timespec="seconds"),
            "lineage": lineage,
        }
        write_json(folder / "champion.json", facts)
    log.info("%s: the champion is %s", name, "none yet" if number is None else f"version {number}")
