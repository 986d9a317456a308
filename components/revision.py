"""The component before the first step: has the source changed?"""

from components.component import component


@component
def revision(params: str) -> str:
    """Tell what the data's source holds, from its list of files alone.

    Ingestion takes the answer as a parameter, so that Kubeflow's cache takes a source that changed for a new
    one, and a source that did not costs one look at its list.

    Args:
        params: the section `ingest` of params.yaml as JSON.

    Returns:
        64 hex digits, others as soon as a file is added, removed or replaced.
    """
    from dbrnet.cli import call

    return str(call("revision", params))
