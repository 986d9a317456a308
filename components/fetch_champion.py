"""Step 5 as a component."""

from kfp import dsl

from components.component import component


@component
def fetch_champion(params: str, champion: dsl.Output[dsl.Model], exported: dsl.Input[dsl.Model] = None) -> None:
    """Fetch the champion from the registry: the model that a candidate has to face.

    Never cached: who is champion is the registry's to say.

    Args:
        params: the section `fetch_champion` of params.yaml as JSON.
        champion: champion.json and, where there is a champion, its model and what it was trained on.
        exported: what `export` wrote. Is it the champion already, then the one before it is fetched.
    """
    from pathlib import Path

    from dbrnet.cli import call
    from dbrnet.files import read_json

    call("fetch-champion", params, exported=exported and exported.path, out=champion.path)
    found = read_json(Path(champion.path, "champion.json"))
    champion.metadata |= {name: found[name] for name in ("model_name", "version") if found[name] is not None}
