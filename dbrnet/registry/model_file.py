"""A model by whichever name the user has for it, as a file."""

from pathlib import Path


def find_model_file(name: str, scratch: Path) -> Path:
    """The .onnx file called `name`: a path, or models:/NAME@ALIAS or /VERSION, fetched into `scratch`."""
    if not name.startswith("models:/"):
        return Path(name)
    from dbrnet.registry.store import open_store  # mlflow takes seconds: only where it is asked for
    from dbrnet.registry.versions import fetch_model

    return fetch_model(name, scratch, store=open_store(Path.cwd()))
