"""The step on own data, through the command line."""

from pathlib import Path

import pytest

from dbrnet.cli import main
from dbrnet.data.dataset import Dataset
from dbrnet.tools.use import use
from tests.data.conftest import square, texture, write_image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: params.yaml for own data, and a batch of five pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    use("factory", source="batch")
    for number in range(5):
        write_image(tmp_path / f"batch/images/{number}.bmp", texture(30, 40, number))
        write_image(tmp_path / f"batch/masks/{number}.png", square(30, 40, number % 3))
    return tmp_path


def _set(old: str, new: str) -> None:
    text = Path("params.yaml").read_text()
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new, 1))


def test_batch_after_batch(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main(["ingest", "--out", "one"]) == 0
    assert "batch: 5 pictures new, 0 unchanged, 0 relabelled, 0 withdrawn" in caplog.text
    _set("former: null", "former: one")
    write_image(project / "batch/masks/0.png", square(30, 40, 2))
    assert main(["ingest", "--out", "two"]) == 0
    assert "batch: 0 pictures new, 4 unchanged, 1 relabelled, 0 withdrawn" in caplog.text
    assert Dataset.load(Path("two")).by_id["0"].classes == (2,)
    assert Dataset.load(Path("one")).by_id["0"].classes == ()


def test_the_former_dataset_is_never_written_over(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "--out", "one"]) == 0
    _set("former: null", "former: ./one")
    before = (project / "one/card.json").read_bytes()
    assert main(["ingest", "--out", "one"]) == 2
    assert "which is only read; write the new dataset elsewhere" in capsys.readouterr().err
    assert (project / "one/card.json").read_bytes() == before


def test_too_much_in_quarantine_writes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "batch/images/3.bmp").write_bytes(b"BM")
    assert main(["ingest", "--out", "one"]) == 2
    error = capsys.readouterr().err
    assert "error: batch: 1 of 5 pictures cannot be used" in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in project.iterdir()) == ["batch", "params.yaml", "recipes"]
    _set("max_quarantine: 0.05", "max_quarantine: 0.2")
    assert main(["ingest", "--out", "one"]) == 0
    assert "images/3.bmp,not a readable image" in (project / "one/quarantine.csv").read_text()
