"""The first commands of a newcomer: `dbrnet generate` and `dbrnet configure`."""

import io
import logging
from pathlib import Path
from typing import Any

from dbrnet.addresses import holds_password, redact
from dbrnet.commands import START, app
from dbrnet.errors import UserError
from dbrnet.files import write_atomically

log = logging.getLogger(__name__)

MOST_STEPS = 10_000_000


@app.command(group=START)
def generate(*, out: Path, count: int = 200, seed: int = 0) -> None:
    """Make the built-in dataset: images of steel strip with four kinds of defects.

    Writes train.csv (run-length masks) and train_images/, Severstal's own layout, under --out. Rotated and mirrored
    near-duplicates are among them, as in the public sets, so that a group split matters. For the demo and the tests.

    For example:

        dbrnet generate --out data/steel-strip
        dbrnet generate --out small --count 60 --seed 1

    Args:
        out: the folder to write: new, empty, or one that this command wrote before, whose files it replaces
        count: how many images
        seed: the random seed: the same seed makes the same images
    """
    from dbrnet.data import synthetic

    if count < 50:
        raise UserError(f"--count {count}: at least 50, or a rare defect may be missing")
    synthetic.generate(out, images=count, seed=seed)
    log.info("%d images written under %s; next: dbrnet configure steel-strip --source %s", count, out, out)


@app.command(group=START)
def pretrain(*, out: Path, steps: int = 20_000, seed: int = 0, workers: int = 0) -> None:
    """Train on generated metal surfaces, for weights that a training can start from.

    A network that has seen defects, of any kind, finds new ones sooner. The images are drawn while it trains; no data
    of yours or of others are in them. Weights made this way come with the program (train.start: generated). Killed at
    any moment and started again, it goes on from its last checkpoint. Writes pretrained.safetensors, in half
    precision, and pretrain.json under --out.

    For example:

        dbrnet pretrain --out weights
        dbrnet pretrain --out weights --steps 100000 --workers 8

    Args:
        out: the folder to write: new, empty, or one that this command wrote before, whose files it replaces
        steps: iterations of 8 images; the longer, the better
        seed: the random seed: the same seed draws the same images
        workers: processes that draw images beside the one that trains
    """
    from dbrnet.files import atomic_directory, claim, remove_own, require_own, sha256_file
    from dbrnet.process_group import process_group
    from dbrnet.provenance import collect_provenance
    from dbrnet.records import PretrainRecord
    from dbrnet.training.pretraining import pretrain
    from dbrnet.training.start import save_weights

    if not 1 <= steps <= MOST_STEPS:
        raise UserError(f"--steps {steps}: from 1 to {MOST_STEPS}")
    workdir = out.with_name(f".{out.name}.checkpoint")
    require_own(workdir, "pretrain")
    if process_group().first:  # others of torchrun's only compute
        claim(workdir, "pretrain")
    provenance = collect_provenance()
    result = pretrain(workdir, steps=steps, seed=seed, workers=workers)
    if not process_group().first:
        return
    with atomic_directory(out, "pretrain") as folder:
        file = folder / PretrainRecord.WEIGHTS
        save_weights(file, result.model)
        PretrainRecord(
            sha256=sha256_file(file),
            seed=seed,
            steps=steps,
            val_miou=result.val_miou,
            seconds=result.seconds,
            device=result.device,
            provenance=provenance,
        ).save(folder)
    remove_own(workdir)
    log.info("%s written; use it by train.start: %s", out / PretrainRecord.WEIGHTS, out / PretrainRecord.WEIGHTS)


@app.command(group=START)
def configure(name: str, /, *, source: str | None = None, params: Path = Path("params.yaml")) -> None:
    """Set params.yaml to the recipe of a dataset.

    Takes the values of recipes/NAME.yaml; comments and all other keys stay. `dvc repro` then runs the pipeline.

    For example:

        dbrnet configure steel-strip
        dbrnet configure neu-seg --source downloads/NEU-Seg.zip

    Args:
        name: the dataset's name; its recipe is recipes/NAME.yaml
        source: its folder, archive, http(s) or s3:// address, where the recipe's is not yours
        params: the parameters' file
    """
    from ruamel.yaml import YAML

    from dbrnet.config import NO_PASSWORD, load_params

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
