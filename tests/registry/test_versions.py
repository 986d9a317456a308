import shutil
from pathlib import Path

import mlflow
import mlflow.onnx
import mlflow.pyfunc
import numpy as np
import onnx
import pytest
from mlflow.entities.model_registry import ModelVersion

from dbrnet.errors import JobError, UserError
from dbrnet.files import sha256_file
from dbrnet.registry.store import Store
from dbrnet.registry.versions import describe_version, fetch_files, fetch_model, find_version
from tests.registry.acting import EXAMPLE, NAME, carry_out, enter, start
from tests.registry.conftest import ModelMaker


def test_a_model_is_one_version_however_often_it_is_registered(store: Store, make_model: ModelMaker) -> None:
    model = make_model(1)
    assert [enter(store, start(store), model) for _ in range(3)] == [1, 1, 1]
    assert enter(store, start(store), make_model(2)) == 2
    assert find_version(store, NAME, sha256_file(model)) == 1
    assert find_version(store, NAME, "0" * 64) is None
    assert find_version(store, "another", sha256_file(model)) is None


def test_two_that_were_made_at_once_are_one_again(store: Store, make_model: ModelMaker) -> None:
    """As if another process had created its version between this one's search and its creation."""
    run, model = start(store), make_model(1)
    client = store.client
    search = client.search_model_versions
    answers = iter([list[ModelVersion]()])  # the first search finds nothing yet
    enter(store, run, model)
    client.search_model_versions = lambda *args, **kwargs: next(answers, None) or search(*args, **kwargs)
    try:
        assert enter(store, start(store), model) == 1
    finally:
        del client.search_model_versions
    assert [int(v.version) for v in client.search_model_versions(f"name = '{NAME}'")] == [1]


def test_the_champion_loads_through_mlflow_and_answers(store: Store, make_model: ModelMaker) -> None:
    model = make_model(1)
    carry_out(store, start(store), model)
    mlflow.set_tracking_uri(store.uri)
    try:
        assert mlflow.onnx.load_model("models:/dbrnet@champion") == onnx.load(model)
        loaded = mlflow.pyfunc.load_model("models:/dbrnet@champion")
        answer = loaded.predict({"image": EXAMPLE})
        example = loaded.input_example
        again = loaded.predict(example)
    finally:
        mlflow.set_tracking_uri(None)
    np.testing.assert_array_equal(answer["mask"], EXAMPLE[..., 1])
    assert loaded.metadata.signature.inputs.input_names() == ["image"]
    assert loaded.metadata.signature.outputs.input_names() == ["mask", "confidence"]
    np.testing.assert_array_equal(example["image"], EXAMPLE)
    np.testing.assert_array_equal(again["mask"], answer["mask"])


def test_a_model_is_fetched_by_alias_and_by_version(store: Store, make_model: ModelMaker, tmp_path: Path) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    carry_out(store, run, make_model(2), "rejected", 1, "slow")
    out = tmp_path / "fetched"
    assert fetch_model("models:/dbrnet@champion", out, store=store) == out / "model.onnx"
    assert (out / "model.onnx").read_bytes() == make_model(1).read_bytes()
    fetch_model("models:/dbrnet/2", out, store=store)
    assert (out / "model.onnx").read_bytes() == make_model(2).read_bytes()
    assert [path.name for path in out.iterdir()] == ["model.onnx"]


def test_files_beside_the_model_and_those_that_are_not_there(
    store: Store, make_model: ModelMaker, tmp_path: Path
) -> None:
    carry_out(store, start(store), make_model(1))
    tags = fetch_files(store, NAME, 1, tmp_path / "out", ["model.onnx", "lineage.json", "split.csv"])
    assert tags["sha256"] == sha256_file(tmp_path / "out/model.onnx")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "lineage.json"}
    assert "What a promotion does" in (tmp_path / "out/lineage.json").read_text()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("models:/dbrnet", "write models:/NAME@ALIAS or models:/NAME/VERSION"),
        ("models:/dbrnet/Production", "write models:/NAME@ALIAS"),
        ("models:/dbrnet@champoin", "no such alias in sqlite:.*; its aliases: champion"),
        ("models:/dbrnet/7", "no such model"),
        ("models:/other@champion", "no such model"),
    ],
)
def test_an_address_that_names_nothing_is_one_line(
    uri: str, message: str, store: Store, make_model: ModelMaker, tmp_path: Path
) -> None:
    carry_out(store, start(store), make_model(1))
    with pytest.raises(UserError, match=message) as caught:
        fetch_model(uri, tmp_path / "out", store=store)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))


def test_a_stored_file_that_was_changed_is_not_handed_out(store: Store, make_model: ModelMaker, tmp_path: Path) -> None:
    carry_out(store, start(store), make_model(1))
    [stored] = store.artifacts.rglob("model.onnx")
    shutil.copyfile(make_model(2), stored)
    with pytest.raises(JobError, match="not the one that was registered"):
        fetch_model("models:/dbrnet@champion", tmp_path / "out", store=store)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("content", [None, b"", b"\xff" * 50])
def test_a_file_that_is_no_model_registers_nothing(content: bytes | None, store: Store, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.onnx"):
        enter(store, start(store), path)
    assert store.client.search_registered_models() == []


def test_what_is_known_of_a_version(store: Store, make_model: ModelMaker) -> None:
    run = start(store)
    carry_out(store, run, make_model(1))
    known = describe_version(store, NAME, 1)
    assert (known["run"], known["leaks"], known["decision"]) == (run.run_id, "no", "promoted")
    with pytest.raises(UserError, match="has no version 2"):
        describe_version(store, NAME, 2)
