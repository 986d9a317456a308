"""The pipelines' parameters: the sections of params.yaml, each as one JSON text."""

from collections.abc import Iterable

from dbrnet.config import Params


def sections(params: Params, names: Iterable[str]) -> dict[str, str]:
    """Those of `names` that are sections, as JSON: texts, since Kubeflow turns the integers of an object into
    floats and takes no null."""
    return {name: getattr(params, name).model_dump_json() for name in names if name in Params.model_fields}
