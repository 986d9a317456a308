"""The last word of a retraining, as a component."""

from kfp import dsl

from components.component import component


@component
def notify(pipeline: str, params: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Tell the webhook in DBRNET_NOTIFY_URL how the run ended, and who is champion; without one, the log.

    Args:
        pipeline: the pipeline's name.
        params: the section `fetch_champion` of params.yaml as JSON.
        status: how the run ended.
    """
    from dbrnet.cli import call

    call("notify", params, run=pipeline, state=status.state, error=status.error_message)
