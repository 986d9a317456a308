"""The components: thin, documented, and as plain in their errors as the command line."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import kfp
import kfp.local
import pytest

import components
from dbrnet.config import load_params
from dbrnet.data.synthetic import generate
from dbrnet.files import read_json
from dbrnet.steps import STEPS, Step
from dbrnet.steps.ingest import ingest

ROOT = Path(__file__).parents[2]
PARAMS = load_params(ROOT / "params.yaml")
ALL = [getattr(components, name) for name in components.__all__]


def artifact(path: Path) -> Any:
    """What Kubeflow hands to a component."""
    return SimpleNamespace(path=str(path), metadata={})


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_component_has_its_steps_interface(step: Step) -> None:
    spec = getattr(components, step.identifier).component_spec
    artifacts = {name: not one.optional for name, one in spec.inputs.items() if one.type.startswith("system.")}
    assert artifacts == dict.fromkeys(step.inputs, True) | dict.fromkeys(step.optional_inputs, False)
    assert step.out in spec.outputs
    assert f"section `{step.section}` of params.yaml" in spec.inputs["params"].description


@pytest.mark.parametrize("component", ALL, ids=components.__all__)
def test_every_component_and_input_is_documented(component: Any) -> None:
    spec = component.component_spec
    assert spec.description
    undocumented = [name for name, one in spec.inputs.items() if not one.description]
    assert not [name for name in undocumented if name != "status"]  # Kubeflow's own, which it leaves out


def test_a_compiled_component_runs_in_another_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipeline and an image of their own, as docs/kubeflow.md says it."""
    monkeypatch.chdir(tmp_path)
    generate(tmp_path / "source", images=60)
    loaded = {
        name: kfp.components.load_component_from_file(str(ROOT / f"components/compiled/{name}.yaml"))
        for name in components.__all__
    }
    image = "harbor.mill.example/vision/dbrnet@sha256:" + 64 * "a"

    @kfp.dsl.pipeline(name="ours")
    def ours(ingest: str, split: str) -> None:
        read = loaded["ingest"](params=ingest, revision="r1").set_container_image(image)
        loaded["split"](params=split, dataset=read.outputs["dataset"]).set_container_image(image)

    kfp.compiler.Compiler().compile(ours, "ours.yaml")
    assert "registry.example" not in Path("ours.yaml").read_text()
    kfp.local.init(kfp.local.SubprocessRunner(use_venv=False), pipeline_root="out", raise_on_error=True)
    source = PARAMS.ingest.model_copy(update={"source": str(tmp_path / "source")})
    ours(ingest=source.model_dump_json(), split=PARAMS.split.model_dump_json())
    [card] = Path("out").glob("ours-*/ingest/dataset/card.json")
    assert read_json(card)["images"] == 60
    [table] = Path("out").glob("ours-*/split/split/split.csv")
    assert len(table.read_text().splitlines()) == 61


def test_a_component_does_what_the_step_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    generate(tmp_path / "source", images=24)
    params = PARAMS.ingest.model_copy(update={"source": "source"})
    ingest(params, out=tmp_path / "by the step")
    dataset = artifact(tmp_path / "by the component")
    components.ingest.python_func(params=params.model_dump_json(), revision="r1", dataset=dataset)
    left, right = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
        for folder in (tmp_path / "by the step", tmp_path / "by the component")
    )
    assert left == right
    card = read_json(tmp_path / "by the component/card.json")
    assert dataset.metadata["content_hash"] == card["content_hash"]
    assert dataset.metadata["revision"] == "r1"


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ('{"dataset": "neu-seg", "source": 7}', "ingest: source: input should be a valid string"),
        ('{"dataset": "neu-seg", "source": "x", "sauce": 1}', "sauce: unknown parameter; allowed here:"),
        ('{"dataset": "neu-seg"', "the parameter ingest is not valid JSON"),
        ("7", "the parameter ingest: the whole: input should be a valid dictionary"),
        (PARAMS.ingest.model_copy(update={"source": "nowhere"}).model_dump_json(), "nowhere"),
    ],
)
def test_wrong_parameters_end_in_one_line(
    params: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        components.ingest.python_func(params=params, revision="", dataset=artifact(tmp_path / "dataset"))
    assert ended.value.code == 2
    result = capsys.readouterr().err.strip().splitlines()
    assert len(result) == 1
    assert result[0].startswith("error: ")
    assert words in result[0]
    assert not list(tmp_path.iterdir())


def test_integers_and_nulls_survive_as_text() -> None:
    """Kubeflow makes floats of an object's integers, and takes no null: so sections travel as text."""
    from dbrnet.config import Params, parse_section
    from pipelines.graphs import sections

    texts = sections(PARAMS, Params.model_fields)
    assert {name: parse_section(name, text) for name, text in texts.items()} == dict(PARAMS)
    assert json.loads(texts["train"])["steps"] == PARAMS.train.steps
    assert isinstance(json.loads(texts["train"])["steps"], int)
