"""DVC projects with this repository's settings."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Project:
    """A folder with this repository's DVC settings."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, folder: Path) -> "Project":
        (folder / "data").mkdir(parents=True)
        (folder / ".dvc").mkdir()
        for name in (".dvc/config", ".dvc/.gitignore", "data/.gitignore"):
            shutil.copy(ROOT / name, folder / name)
        subprocess.run(["git", "init", "-q", str(folder)], check=True)
        return cls(folder, {"DVC_NO_ANALYTICS": "1"})

    def dvc(self, *words: str, **settings: str) -> str:
        """Run DVC, which must succeed; its output."""
        done = self._run(words, settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def dvc_fails(self, *words: str, **settings: str) -> str:
        """Run DVC, which must fail without a traceback; its errors."""
        done = self._run(words, settings)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return done.stderr

    def _run(self, words: tuple[str, ...], settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment = inherited | self.environment | settings | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "dvc", *words]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=environment)


def dvc_hash(folder: Path) -> str:
    """A folder's hash by DVC's rule: the MD5 of the list of its files' MD5s."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    listed = [{"md5": hashlib.md5(files[name].read_bytes()).hexdigest(), "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"
