"""`dbrnet fetch-champion`: what it fetches of a version, with and without a candidate."""

import json
from pathlib import Path

import pytest

from dbrnet.cli import main
from dbrnet.files import MARKER, sha256_file
from dbrnet.records import ChampionRecord
from dbrnet.registry.store import Store, open_store
from dbrnet.registry.versions import LINEAGE, TABLES, register
from tests.registry.acting import EXAMPLE, NAME, carry_out, start
from tests.registry.conftest import ModelMaker
from tests.registry.servers import mlflow_server
from tests.reports import examples

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: the parameters, and a file for each of the tables."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "params.yaml").read_text().replace("model_name: dbrnet-steel-strip", f"model_name: {NAME}")
    (tmp_path / "params.yaml").write_text(text)
    for name in TABLES:
        (tmp_path / name).write_text(json.dumps({"name": name}))
    (tmp_path / LINEAGE).write_text(examples.train().model_dump_json())
    return tmp_path


@pytest.fixture
def file_store(store: Store, project: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store in a file, which the project uses."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    return store


def promoted(store: Store, model: Path, files: tuple[str, ...], against: int | None = None) -> None:
    """The next champion, with `files` of the working folder kept beside it."""
    run = start(store)
    kept = {name: Path(name) for name in files}
    register(store, run, NAME, model, files=kept, tags={}, example=EXAMPLE)
    assert carry_out(store, run, model, against=against).champion_after is not None


def fetched(*words: str) -> ChampionRecord:
    assert main(["fetch-champion", *words, "--out", "champion"]) == 0
    return ChampionRecord.load(Path("champion"))


def test_there_is_none_yet(file_store: Store) -> None:
    assert fetched().version is None
    assert {path.name for path in Path("champion").iterdir()} == {MARKER, "champion.json"}


def test_the_champion_comes_with_its_tables(file_store: Store, make_model: ModelMaker) -> None:
    promoted(file_store, make_model(1), (LINEAGE, *TABLES))
    champion = fetched()
    assert (champion.version, champion.sha256) == (1, sha256_file(make_model(1)))
    assert champion.lineage == examples.train()
    for name in (LINEAGE, *TABLES):
        assert Path("champion", name).read_bytes() == Path(name).read_bytes()


def test_a_candidate_that_is_champion_is_compared_with_the_one_before(
    file_store: Store, make_model: ModelMaker
) -> None:
    promoted(file_store, make_model(1), (LINEAGE, "split.csv"))  # as versions were before there were more tables
    promoted(file_store, make_model(2), (LINEAGE, *TABLES), against=1)
    Path("export").mkdir()
    for mark, baseline in ((2, 1), (3, 2)):
        examples.change(examples.export(), model_sha256=sha256_file(make_model(mark))).save(Path("export"))
        assert fetched("--exported", "export").version == baseline
        kept = {path.name for path in Path("champion").iterdir()}
        tables = {"split.csv"} if baseline == 1 else set(TABLES)
        assert kept == {MARKER, "champion.json", "model.onnx", LINEAGE, *tables}
    assert fetched().version == 2


def test_a_champion_that_others_registered_without_tags(file_store: Store, make_model: ModelMaker) -> None:
    promoted(file_store, make_model(1), (LINEAGE,))
    file_store.client.delete_model_version_tag(NAME, "1", "sha256")
    assert fetched().sha256 == sha256_file(make_model(1))


def test_a_lineage_of_another_version_is_left_out(
    file_store: Store, make_model: ModelMaker, caplog: pytest.LogCaptureFixture
) -> None:
    Path(LINEAGE).write_text("{}")
    promoted(file_store, make_model(1), (LINEAGE,))
    champion = fetched()
    assert (champion.version, champion.lineage) == (1, None)
    assert "lineage.json has schema version None" in caplog.text


@pytest.mark.slow
def test_from_a_server(
    migrated_database: Path, project: Path, make_model: ModelMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "server").mkdir()
    with mlflow_server(project / "server", migrated_database) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        promoted(open_store(project), make_model(1), (LINEAGE, "card.json", "image_stats.csv"))
        assert fetched().version == 1
    kept = {path.name for path in Path("champion").iterdir()}
    assert kept == {MARKER, "champion.json", "model.onnx", LINEAGE, "card.json", "image_stats.csv"}
