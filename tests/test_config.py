"""params.yaml: typed, and an error names the key, its section and what is allowed."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from dbrnet.cli import main
from dbrnet.commands.configure import configure
from dbrnet.config import load_params
from dbrnet.errors import UserError

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """A copy of the project's params.yaml beside its recipes."""
    (tmp_path / "recipes").mkdir()
    for recipe in RECIPES:
        (tmp_path / "recipes" / recipe.name).write_text(recipe.read_text())
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text())
    return path


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("  batch_size: 8", "  batchsize: 8", "train.batchsize: unknown parameter; allowed here: seed, epochs"),
        ("    lfem: true", "    lfm: true", "train.model.lfm: unknown parameter; allowed here: lfem, affm, dcppm"),
        ("dataset: steel-strip ", "dataset: factory ", "ingest.classes: value error, must name the defects"),
        ("  classes: []", "  classes: [dent]", "ingest.classes: value error, must be [] where dataset is not"),
        ("  previous: null", "  previous: old", "ingest.previous: value error, must be null where dataset is not"),
        ("  bit_depth: 16", "  bit_depth: 7", "ingest.bit_depth: input should be greater than or equal to 8"),
        ("  epochs: ", "  epochs: many #", "train.epochs: input should be a valid integer"),
        ("  dataset: steel-strip", "  dataset: steel", "ingest.dataset: input should be 'steel-strip', 'neu-seg'"),
        ("[0.6, 0.2, 0.2]", "[0.6, 0.2, 0.3]", "split.fractions: value error, must sum to 1"),
        ("  workers: 0", "  workers: 99", "train.workers: input should be less than or equal to 64, got 99"),
        ("split:", "splitting:", "splitting: unknown parameter; allowed here: ingest, split"),
        ("split:", "split: [", "is not valid YAML"),
    ],
)
def test_an_error_names_key_section_and_what_is_allowed(params: Path, old: str, new: str, expected: str) -> None:
    text = params.read_text()
    assert old in text
    params.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_params(params)
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("classes", "complaint"),
    [
        ("[dent, Dent]", "must differ"),
        ("[background]", "background is id 0 anyway"),
        ("[dent, 2]", "classes.1: input should be a valid string"),
        ('["2"]', "classes.0: string should match pattern"),
        ('["a/b"]', "classes.0: string should match pattern"),
        ('[".."]', "classes.0: string should match pattern"),
        ('["a b"]', "classes.0: string should match pattern"),
    ],
)
def test_a_class_is_named_as_a_folder_may_be(params: Path, classes: str, complaint: str) -> None:
    text = params.read_text().replace("dataset: steel-strip ", "dataset: factory ", 1)
    params.write_text(text.replace("classes: []", "classes: [scratch, Tiefe_Delle-2, 划痕]", 1))
    assert load_params(params).ingest.classes == ("scratch", "Tiefe_Delle-2", "划痕")
    params.write_text(text.replace("classes: []", f"classes: {classes}", 1))
    with pytest.raises(UserError, match=complaint):
        load_params(params)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        load_params(tmp_path / "nowhere.yaml")


def test_committed_params_are_the_built_in_recipe(params: Path) -> None:
    before = params.read_text()
    assert main(["configure", "steel-strip", "--params", str(params)]) == 0
    assert params.read_text() == before


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_every_recipe_is_valid_and_undone_by_another(params: Path, recipe: Path) -> None:
    before = params.read_text()
    assert main(["configure", recipe.stem, "--source", "elsewhere/it's here.zip", "--params", str(params)]) == 0
    loaded = load_params(params)
    assert loaded.ingest.dataset == recipe.stem
    assert loaded.ingest.source == "elsewhere/it's here.zip"
    assert main(["configure", "steel-strip", "--params", str(params)]) == 0
    assert YAML(typ="safe").load(params.read_text()) == YAML(typ="safe").load(before)
    assert "# height, width" in params.read_text(), "comments are kept"


def test_an_unknown_recipe_names_the_known_ones(params: Path) -> None:
    with pytest.raises(UserError, match="there are: factory, magnetic-tile, neu-seg, severstal, steel-strip"):
        configure("neu", params=params)


def test_every_recipe_sets_the_same_knobs_so_that_none_is_left_of_another() -> None:
    def knobs(recipe: Path) -> set[str]:
        sections = YAML().load(recipe.read_text())
        return {f"{section}.{key}" for section, values in sections.items() for key in values}

    first, *others = RECIPES
    for recipe in others:
        assert knobs(recipe) == knobs(first), recipe.name
