"""`dbrnet configure`: params.yaml for another dataset."""

import io
import logging
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from dbrnet.addresses import holds_password, redact
from dbrnet.config import NO_PASSWORD, load_params
from dbrnet.errors import UserError
from dbrnet.files import write_atomically

log = logging.getLogger(__name__)


def configure(name: str, *, source: str | None = None, params: Path = Path("params.yaml")) -> None:
    """Set params.yaml to a dataset's recipe (recipes/NAME.yaml), comments and all other keys kept.

    --source says where you have the data; `dvc repro` then runs the pipeline on it.
    """
    if source is not None and holds_password(source):
        raise UserError(f"--source {NO_PASSWORD}")
    recipes = params.absolute().parent / "recipes"
    recipe = recipes / f"{name}.yaml"
    if not recipe.is_file():
        known = ", ".join(sorted(path.stem for path in recipes.glob("*.yaml"))) or "none"
        raise UserError(f"no recipe for {name!r} in {recipes}; there are: {known}")
    load_params(params)
    yaml = YAML()
    yaml.width = 110
    yaml.representer.add_representer(
        type(None), lambda representer, _: representer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document = yaml.load(params.read_text())
    _overlay(document, YAML().load(recipe.read_text()))
    if source is not None:
        document["ingest"]["source"] = source
    text = io.StringIO()
    yaml.dump(document, text)
    if text.getvalue() != params.read_text():
        write_atomically(params, text.getvalue())
    load_params(params)
    chosen = document["ingest"]["source"]
    log.info("params.yaml is set for %s from %s; run it with: dvc repro", name, redact(chosen))
    if redact(chosen) != chosen:
        log.info(
            "note: params.yaml holds the whole address, and DVC writes it to dvc.lock; "
            "if a signature is in it, commit neither"
        )


def _overlay(document: dict[str, Any], recipe: dict[str, Any]) -> None:
    """Set each value of `recipe` in `document`, section by section."""
    for key, value in recipe.items():
        if isinstance(value, dict):
            _overlay(document[key], value)
        else:
            document[key] = value
