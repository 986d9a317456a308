"""The sections of the committed params.yaml; a test changes what it needs by `model_copy(update=...)`."""

from pathlib import Path

from dbrnet.config import load_params

PARAMS = load_params(Path(__file__).parents[1] / "params.yaml")
