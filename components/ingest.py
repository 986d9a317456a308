"""Step 1 as a component."""

from kfp import dsl

from components.component import component


@component
def ingest(params: str, revision: str, dataset: dsl.Output[dsl.Dataset]) -> None:
    """Read a dataset from a folder, an archive, a URL or S3 into one canonical form.

    Args:
        params: the section `ingest` of params.yaml as JSON. `source` is an s3:// address on a cluster.
        revision: what the source holds, from the component `revision`; a part of the cache's key.
        dataset: images/, masks/, samples.csv, card.json; the card's figures are its metadata.
    """
    from pathlib import Path

    from dbrnet.cli import call
    from dbrnet.files import read_json

    call("ingest", params, out=dataset.path)
    card = read_json(Path(dataset.path, "card.json"))
    dataset.metadata |= {name: card[name] for name in ("title", "content_hash", "images", "groups")}
    dataset.metadata["revision"] = revision
