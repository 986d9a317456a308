"""A copy of what the pipelines need, in which they run as a user runs them: on few images, for seconds."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dbrnet import steps

ROOT = Path(__file__).parents[1]
STAGES = [step.name for step in steps.STAGES]
QUICK = {
    "  steps: ": "  steps: 10 #",
    "  crop: [128, 224] ": "  crop: [64, 64] #",
    "  seconds: 1.0 ": "  seconds: 0.2 #",
    ", openvino-int8]": "]",
    "  gallery: 4 ": "  gallery: 1 #",
    "  min_miou: 0.75": "  min_miou: 0.0",
    "  min_iou: 0.5 ": "  min_iou: null #",
    "  min_defect_recall: 0.6 ": "  min_defect_recall: null #",
    "  max_false_positives: 0.5 ": "  max_false_positives: null #",
    "  min_fps: 10.0": "  min_fps: 0.01",
    "  max_p99_ms: 500.0": "  max_p99_ms: null",
}


class Workspace:
    """A copy of what the pipeline needs, with DVC's state of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("dbrnet", "components", "pipelines", "recipes", ".dvc/config"):
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, target)
        for name in ("dvc.yaml", "params.yaml", ".dvcignore", ".gitignore"):
            shutil.copy(ROOT / name, folder / name)
        (folder / "rfc3987_syntax.py").write_text("raise ImportError")  # as in conftest.py
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        self.set_params(QUICK)

    def set_params(self, changes: Mapping[str, str]) -> None:
        path = self.folder / "params.yaml"
        text = path.read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new, 1)
        path.write_text(text)

    def run(self, *words: str, status: int = 0, **environment: str) -> str:
        """What the command printed; it must end with `status`."""
        process = self.start(*words, **environment)
        output, _ = process.communicate()
        assert process.returncode == status, output
        return output

    def start(self, *words: str, **environment: str) -> subprocess.Popen[str]:
        own = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
        own |= {
            "PYTHONPATH": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}:{own['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            words, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=own | environment
        )

    def repro(self) -> list[str]:
        """Run the pipeline; the steps that ran."""
        output = self.run("dvc", "repro")
        return [step for step in STAGES if f"Running stage '{step}'" in output]

    def json(self, path: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.folder / path).read_text())
        return loaded

    def artifact(self, name: str) -> Path:
        """The latest artifact of that name, such as evaluate/evaluated, of Kubeflow's local runner."""
        found = (self.folder / "artifacts/kubeflow").glob(f"dbrnet-*/{name}")
        return max(found, key=lambda path: path.parts[-3].rpartition("training-")[2])  # by their times


def tasks_run(output: str) -> list[str]:
    """The tasks that Kubeflow's local runner says it has run, in their order; a retried one again."""
    return re.findall(r"Executing task .*?'([\w-]+)'", output)
