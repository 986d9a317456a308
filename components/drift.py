"""The question before a retraining, as a component."""

from kfp import dsl

from components.component import component


@component
def drift(
    params: str,
    dataset: dsl.Input[dsl.Dataset],
    champion: dsl.Input[dsl.Model],
    drifted: dsl.Output[dsl.Artifact],
    reasons: dsl.Output[dsl.Markdown],
) -> str:
    """Answer whether the data has changed enough since the champion was trained to train again.

    Args:
        params: the section `drift` of params.yaml as JSON.
        dataset: what `ingest` wrote of the data as it is now.
        champion: what `champion` wrote.
        drifted: drift.json and drift.png: each feature's distributions, then and now.
        reasons: the answer, and why.

    Returns:
        yes or no.
    """
    from pathlib import Path

    from dbrnet.cli import call
    from dbrnet.files import read_json

    call("drift", params, current=dataset.path, champion=champion.path, out=drifted.path)
    found = read_json(Path(drifted.path, "drift.json"))
    why = found["reasons"] or [check["text"] for check in found["checks"]]
    lines = [f"# Is retraining warranted? {found['answer']}", "", *(f"- {line}" for line in why)]
    Path(reasons.path).write_text("\n".join([*lines, *(f"- note: {note}" for note in found["notes"]), ""]))
    return str(found["answer"])
