"""params.yaml: typed, and an error names the key, its section and what is allowed."""

import json
import math
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dbrnet.cli import main
from dbrnet.commands.configure import configure
from dbrnet.config import Params, load_params, parse_section
from dbrnet.errors import UserError

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


@dataclass(frozen=True)
class Number:
    """A number in the schema of params.yaml: its path, such as ("train", "scale", 0), and its constraints."""

    path: tuple[str | int, ...]
    constraints: dict[str, Any]

    @property
    def name(self) -> str:
        return ".".join(map(str, self.path))

    def bound(self, kind: str) -> float | None:
        """The "minimum" or "maximum", whether a value may equal it or not."""
        found = self.constraints.get(kind, self.constraints.get(f"exclusive{kind.capitalize()}"))
        return None if found is None else float(found)

    def written(self, raw: dict[str, Any], value: str) -> dict[str, str]:
        """The sections of params.yaml as JSON, this number spelt as `value`, which JSON may not know."""
        raw = deepcopy(raw)
        place: Any = raw
        for key, following in pairwise(self.path):
            if not isinstance(place[key], (dict, list)):
                place[key] = [64, 64] if isinstance(following, int) else {}
            place = place[key]
        place[self.path[-1]] = "VALUE"
        return {name: json.dumps(section).replace('"VALUE"', value) for name, section in raw.items()}


def numbers_of(schema: dict[str, Any], path: tuple[str | int, ...] = ()) -> Iterator[Number]:
    """Every number beneath a node of `Params`' JSON schema."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].split("/")[-1]]
    if schema.get("type") in ("number", "integer"):
        yield Number(path, schema)
    for branch in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        yield from numbers_of(branch, path)
    for key, value in schema.get("properties", {}).items():
        yield from numbers_of(value, (*path, key))
    for value in schema.get("patternProperties", {}).values():
        yield from numbers_of(value, (*path, "scratch"))
    for place, value in enumerate(schema.get("prefixItems", ())):
        yield from numbers_of(value, (*path, place))
    if isinstance(schema.get("items"), dict):
        yield from numbers_of(schema["items"], (*path, 0))


SCHEMA = Params.model_json_schema()
NUMBERS = list(numbers_of(SCHEMA))


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


def test_the_schema_walk_reaches_every_kind_of_number() -> None:
    names = {number.name for number in NUMBERS}
    assert len(names) > 60
    assert {"train.learning_rate", "train.scale.1", "split.fractions.2", "benchmark.threads"} <= names
    assert {"promote.min_iou", "promote.min_iou.scratch", "promote.parity.int8.max_miou_loss"} <= names


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_every_number_is_bounded_on_both_sides(number: Number) -> None:
    bounds = number.bound("minimum"), number.bound("maximum")
    assert all(bound is not None and math.isfinite(bound) for bound in bounds), bounds


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: number.name)
def test_a_number_that_is_infinite_nan_or_out_of_bounds_is_refused(number: Number, params: Path) -> None:
    """In params.yaml and in a section's text: one line that names the key and, of a float, the bound."""
    raw = YAML(typ="safe").load(params.read_text())
    low, high = number.bound("minimum"), number.bound("maximum")
    assert low is not None
    assert high is not None
    yaml = (".inf", "-.inf", ".nan", "1e999", "-1e999")
    for value in (*yaml, "Infinity", "-Infinity", "NaN", f"{low - 1:.0f}", f"{high + 1:.0f}"):
        sections = number.written(raw, value)
        params.write_text("\n".join(f"{name}: {section}" for name, section in sections.items()))
        with pytest.raises(UserError) as in_file:
            load_params(params)
        name, *inside = map(str, number.path)
        with pytest.raises(UserError) as in_section:
            parse_section(name, sections[name])
        for message, key in ((str(in_file.value), number.name), (str(in_section.value), ".".join(inside))):
            assert f": {key}: input should be " in message
            assert "\n" not in message
            bounds = [float(word) for word in re.findall(r"than (?:or equal to )?([\d.]+)", message)]
            assert set(bounds) <= {low, high}
            assert bounds or number.constraints["type"] == "integer", message


@pytest.mark.parametrize("value", [".inf", ".nan", "1e999", "2026-13-45", "9" * 5000])
def test_the_command_line_ends_with_status_2_and_one_line(
    value: str, params: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = params.read_text()
    assert "  max_false_positives: 0.5 " in text
    params.write_text(text.replace("  max_false_positives: 0.5 ", f"  max_false_positives: {value} "))
    assert main(["split", "dataset", "--out", "split", "--params", str(params)]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {params}")


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
