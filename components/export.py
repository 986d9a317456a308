"""Step 4 as a component."""

from kfp import dsl

from components.component import component


@component
def export(
    params: str,
    dataset: dsl.Input[dsl.Dataset],
    split: dsl.Input[dsl.Artifact],
    trained: dsl.Input[dsl.Model],
    exported: dsl.Output[dsl.Model],
) -> None:
    """Write the trained network as one ONNX file, raw image in and class ids out, and in int8 as another.

    Args:
        params: the section `export` of params.yaml as JSON.
        dataset: what `ingest` wrote.
        split: what `split` wrote.
        trained: what `train` wrote.
        exported: model.onnx, model-int8.onnx, export.json.
    """
    from pathlib import Path

    from dbrnet.cli import call
    from dbrnet.files import read_json

    call("export", params, dataset=dataset.path, split=split.path, trained=trained.path, out=exported.path)
    info = read_json(Path(exported.path, "export.json"))
    exported.metadata |= {name: info[name] for name in ("model_file", "model_sha256", "bytes")}
