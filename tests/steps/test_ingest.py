"""The step on own data, through the command line."""

from pathlib import Path

import numpy as np
import pytest

from dbrnet.cli import main
from dbrnet.commands.start import configure
from dbrnet.data.dataset import Dataset
from dbrnet.data.image_stats import FEATURES, measure_image_stats, read_image_stats
from tests.data.conftest import square, texture, write_image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: params.yaml for own data, and a batch of five images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    configure("factory", source="batch")
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
    assert "batch: 5 images new, 0 unchanged, 0 relabelled, 0 withdrawn" in caplog.text
    _set("previous: null", "previous: one")
    write_image(project / "batch/masks/0.png", square(30, 40, 2))
    assert main(["ingest", "--out", "two"]) == 0
    assert "batch: 0 images new, 4 unchanged, 1 relabelled, 0 withdrawn" in caplog.text
    assert Dataset.load(Path("two")).by_id["0"].classes == (2,)
    assert Dataset.load(Path("one")).by_id["0"].classes == ()


def test_the_previous_dataset_is_never_written_over(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ingest", "--out", "one"]) == 0
    _set("previous: null", "previous: ./one")
    before = (project / "one/card.json").read_bytes()
    assert main(["ingest", "--out", "one"]) == 2
    assert "one overlaps with ingest.previous one" in capsys.readouterr().err
    assert (project / "one/card.json").read_bytes() == before


def test_too_much_in_quarantine_writes_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "batch/images/3.bmp").write_bytes(b"BM")
    assert main(["ingest", "--out", "one"]) == 2
    error = capsys.readouterr().err
    assert "error: batch: 1 of 5 images cannot be used" in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in project.iterdir()) == ["batch", "params.yaml", "recipes"]
    _set("max_quarantine: 0.05", "max_quarantine: 0.2")
    assert main(["ingest", "--out", "one"]) == 0
    assert "images/3.bmp,not a readable image" in (project / "one/quarantine.csv").read_text()


def test_the_appearance_of_each_image_is_written_beside_it(project: Path) -> None:
    write_image(project / "batch/images/5.bmp", texture(32, 40, 5))  # the others are too small
    write_image(project / "batch/masks/5.png", square(32, 40, 1))
    assert main(["ingest", "--out", "one"]) == 0
    dataset = Dataset.load(Path("one"))
    header, row = (project / "one/image_stats.csv").read_text().splitlines()
    expected = measure_image_stats(dataset.image(dataset.by_id["5"]))
    assert header.split(",") == ["id", *FEATURES]
    assert row.split(",") == ["5", *(repr(float(value)) for value in expected)]


def test_of_the_previous_dataset_nothing_is_measured_again(project: Path) -> None:
    for number in range(5):
        write_image(project / f"batch/images/{number}.bmp", texture(40, 40, number))
        write_image(project / f"batch/masks/{number}.png", square(40, 40, number % 3))
    assert main(["ingest", "--out", "one"]) == 0
    table = project / "one/image_stats.csv"
    rows = table.read_text().splitlines()
    rows[1] = "0,1.0,2.0,3.0,4.0,5.0"
    table.write_text("\n".join([*rows, ""]))
    _set("previous: null", "previous: one")
    write_image(project / "batch/images/5.bmp", texture(40, 40, 5))
    write_image(project / "batch/masks/5.png", square(40, 40, 1))
    assert main(["ingest", "--out", "two"]) == 0
    grown = (project / "two/image_stats.csv").read_text().splitlines()
    assert grown[:-1] == rows
    two = Dataset.load(Path("two"))
    new = two.by_id["5"]
    np.testing.assert_array_equal(read_image_stats(two)[new.image_sha256], measure_image_stats(two.image(new)))
