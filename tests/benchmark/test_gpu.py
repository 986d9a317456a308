"""The runs for a GPU, tried on whatever is here, in a minute."""

import subprocess
import sys
from pathlib import Path

import pytest

from dbrnet.files import read_json

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "benchmarks/gpu.py")]
PARTS = ("agreement", "speed", "neu-seg", "inference", "other-sets")
LATE = "ended when its time was over"  # the error of a slow machine alone


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_parts_run_in_a_minute(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--minutes", "1", "--out", str(tmp_path)], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    content = read_json(tmp_path / "gpu.json")
    assert tuple(content["parts"]) == PARTS
    for name, figures in content["parts"].items():
        assert figures.get("error") in (None, LATE), (tmp_path / f"{name}.log").read_text()
    agreement = content["parts"]["agreement"]
    assert agreement["logits, relative difference to float64"] < 1e-3
    assert agreement["resumed, largest difference of a loss"] == 0 or content["device"] != "cpu"
    assert agreement["eager again, curve differs by"] == 0 or content["device"] != "cpu"
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"## {name}" in page for name in PARTS)


def test_a_part_that_fails_is_a_line_of_the_result(tmp_path: Path) -> None:
    """As where the folder for the weights cannot be made."""
    (tmp_path / "untrained").write_text("in the way")
    command = [*COMMAND, "--minutes", "0.05", "--part", "inference", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_json(tmp_path / "inference.json")["error"].startswith("FileExistsError")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--minutes", "0"], "error: --minutes 0: more than 0, and 600 at most"),
        (["--minutes", "1", "--data", "nowhere"], "error: --data nowhere is not a folder"),
    ],
)
def test_wrong_input_is_one_line(words: list[str], line: str, tmp_path: Path) -> None:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == line
