"""Step 2 as a component."""

from kfp import dsl

from components.component import component


@component
def split(
    params: str,
    dataset: dsl.Input[dsl.Dataset],
    split: dsl.Output[dsl.Artifact],
    report: dsl.Output[dsl.HTML],
    champion: dsl.Input[dsl.Model] = None,
) -> None:
    """Find the images that show the same thing, and divide them into train, val and test without a leak.

    Args:
        params: the section `split` of params.yaml as JSON.
        dataset: what `ingest` wrote.
        split: split.csv, split.json, audit.json, links.csv.
        report: the audit's page: what shows the same thing, and what a split of it would leak.
        champion: what `champion` wrote, where the dataset has grown: its images stay in their splits, so
            that nothing that the champion learned is tested on.
    """
    import json
    from pathlib import Path
    from shutil import copyfile

    from dbrnet.cli import call

    if champion is not None and Path(champion.path, "split.json").exists():
        params = json.dumps(json.loads(params) | {"previous": champion.path})
    call("split", params, dataset=dataset.path, out=split.path)
    copyfile(f"{split.path}/audit.html", report.path)
