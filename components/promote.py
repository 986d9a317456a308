"""Step 8 as a component."""

from kfp import dsl

from components.component import component


@component
def promote(
    params: str,
    dataset: dsl.Input[dsl.Dataset],
    split: dsl.Input[dsl.Artifact],
    trained: dsl.Input[dsl.Model],
    exported: dsl.Input[dsl.Model],
    champion: dsl.Input[dsl.Model],
    evaluated: dsl.Input[dsl.Artifact],
    benchmarked: dsl.Input[dsl.Artifact],
    decision: dsl.Output[dsl.Artifact],
    review: dsl.Output[dsl.HTML],
    card: dsl.Output[dsl.Markdown],
) -> str:
    """Decide by the measured figures, register the model, and move the champion if it passes.

    Never cached: the registry may have moved on.

    Args:
        params: the section `promote` of params.yaml as JSON.
        dataset: what `ingest` wrote.
        split: what `split` wrote.
        trained: what `train` wrote.
        exported: what `export` wrote.
        champion: what `champion` wrote.
        evaluated: what `evaluate` wrote.
        benchmarked: what `benchmark` wrote.
        decision: decision.json: every criterion, its figure, its threshold and its verdict.
        review: the decision's page.
        card: the model card.

    Returns:
        promoted, needs review, or rejected.
    """
    from pathlib import Path
    from shutil import copyfile

    from dbrnet.cli import call
    from dbrnet.files import read_json

    call(
        "promote",
        params,
        dataset=dataset.path,
        split=split.path,
        trained=trained.path,
        exported=exported.path,
        champion=champion.path,
        evaluated=evaluated.path,
        benchmarked=benchmarked.path,
        out=decision.path,
    )
    copyfile(f"{decision.path}/review.html", review.path)
    copyfile(f"{decision.path}/model-card.md", card.path)
    promotion = read_json(Path(decision.path, "decision.json"))["promotion"]
    decision.metadata |= {"version": promotion["version"], "answer": promotion["answer"]}
    return str(promotion["answer"])
