"""params.yaml: typed, and an error names the key, its section and what is allowed."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from dbrnet.cli import main
from dbrnet.commands.start import configure
from dbrnet.config import IngestParams, Params, PromoteParams, SplitParams, load_params, parse_section
from dbrnet.data.readers import READERS
from dbrnet.data.split import Kind
from dbrnet.errors import UserError
from dbrnet.records import Mode, flatten

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
        ("  batch_size: 8", "  batchsize: 8", "train.batchsize: unknown parameter; allowed here: seed, start, shrink"),
        ("    lfem: true", "    lfm: true", "train.model.lfm: unknown parameter; allowed here: lfem, affm, dcppm"),
        ("dataset: steel-strip ", "dataset: factory ", "ingest.classes: value error, must name the defects"),
        ("  classes: []", "  classes: [dent]", "ingest.classes: value error, must be [] where dataset is not"),
        ("  previous: null", "  previous: old", "ingest.previous: value error, must be null where dataset is not"),
        ("  bit_depth: 16", "  bit_depth: 7", "ingest.bit_depth: input should be greater than or equal to 8"),
        ("  mask_threshold: 127", "  mask_threshold: 255", "ingest.mask_threshold: input should be less than or equal"),
        ("  steps: ", "  steps: many #", "train.steps: input should be a valid integer"),
        ("  zoom: ", "  zoom: none #", "train.zoom: value error, must be auto, or a factor such as 1.5, got 'none'"),
        ("  zoom: ", "  zoom: 0.3 #", "train.zoom: input should be a multiple of 0.25, got 0.3"),
        ("  dataset: steel-strip", "  dataset: steel", "ingest.dataset: input should be 'steel-strip', 'neu-seg'"),
        ("[0.6, 0.2, 0.2]", "[0.6, 0.2, 0.3]", "split.fractions: value error, must sum to 1"),
        ("[0.6, 0.2, 0.2]", "[0.6, 0.2, 0.1]", "split.fractions: value error, must sum to 1"),
        ("  workers: null", "  workers: 99", "train.workers: input should be less than or equal to 64, got 99"),
        ("split:", "splitting:", "splitting: unknown parameter; allowed here: ingest, split"),
        ("split:", "split: [", "is not valid YAML"),
    ],
)
def test_an_error_names_the_key_its_section_and_what_is_allowed(
    params: Path, old: str, new: str, expected: str
) -> None:
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
def test_every_number_has_two_bounds_and_infinity_nan_and_what_lies_beyond_are_refused(
    number: Number, params: Path
) -> None:
    """In params.yaml and in a section's text: one line that names the key and, of a float, the bound."""
    raw = YAML(typ="safe").load(params.read_text())
    low, high = number.bound("minimum"), number.bound("maximum")
    assert low is not None
    assert high is not None
    assert math.isfinite(high - low)
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
def test_a_class_name_must_be_a_valid_folder_name(params: Path, classes: str, complaint: str) -> None:
    text = params.read_text().replace("dataset: steel-strip ", "dataset: factory ", 1)
    params.write_text(text.replace("classes: []", "classes: [scratch, Tiefe_Delle-2, 划痕]", 1))
    assert load_params(params).ingest.classes == ("scratch", "Tiefe_Delle-2", "划痕")
    params.write_text(text.replace("classes: []", f"classes: {classes}", 1))
    with pytest.raises(UserError, match=complaint):
        load_params(params)


def test_committed_params_are_the_built_in_recipe(params: Path) -> None:
    before = params.read_text()
    assert main(["configure", "steel-strip", "--params", str(params)]) == 0
    assert params.read_text() == before


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.stem)
def test_each_recipe_is_valid_and_another_one_undoes_it(params: Path, recipe: Path) -> None:
    before = params.read_text()
    assert main(["configure", recipe.stem, "--source", "elsewhere/it's here.zip", "--params", str(params)]) == 0
    loaded = load_params(params)
    assert loaded.ingest.dataset == recipe.stem
    assert loaded.ingest.source == "elsewhere/it's here.zip"
    assert main(["configure", "steel-strip", "--params", str(params)]) == 0
    assert YAML(typ="safe").load(params.read_text()) == YAML(typ="safe").load(before)
    assert "# height, width" in params.read_text(), "comments are kept"


def test_a_missing_file_and_an_unknown_recipe_are_named(params: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml does not exist"):
        load_params(params.with_name("nowhere.yaml"))
    with pytest.raises(UserError, match="there are: factory, magnetic-tile, neu-seg, severstal, steel-strip"):
        configure("neu", params=params)


def keys(file: Path) -> set[str]:
    """Such as "train.steps"."""
    return {f"{name}.{key}" for name, section in YAML().load(file.read_text()).items() for key in section}


def test_recipes_only_override_and_all_override_the_same_keys() -> None:
    first, *others = map(keys, RECIPES)
    assert first < keys(ROOT / "params.yaml")
    assert all(other == first for other in others), "a key left out would keep another recipe's value"


def test_params_yaml_states_every_value_and_the_sections_have_no_default() -> None:
    def keys_of(section: type[BaseModel], name: str = "") -> Iterator[str]:
        """The keys of a section, and of those in it, none of which has a default."""
        for key, field in section.model_fields.items():
            assert field.is_required(), f"{name}{key} has a default"
            nested = isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
            yield from keys_of(field.annotation, f"{name}{key}.") if nested else (f"{name}{key}",)  # type: ignore[arg-type]

    assert set(keys_of(Params)) == set(flatten(YAML(typ="safe").load((ROOT / "params.yaml").read_text())))


def test_names_listed_in_config_are_those_of_the_rooms() -> None:
    def choices(section: type[BaseModel], key: str) -> tuple[str, ...]:
        return get_args(section.model_fields[key].annotation)

    assert set(choices(IngestParams, "dataset")) == {*READERS, "factory"}
    assert choices(SplitParams, "kind") == get_args(Kind)
    assert choices(PromoteParams, "mode") == get_args(Mode)


def test_checking_params_loads_no_heavy_library() -> None:
    code = "import sys, dbrnet.config; print({'torch', 'cv2', 'numpy', 'onnxruntime', 'openvino'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"
