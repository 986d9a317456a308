"""The public datasets as DVC imports: what is locked is what the archives hold, and DVC checks it."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dbrnet.data.readers import READERS
from dbrnet.data.readers.reader import find_layout
from dbrnet.data.writer import build_dataset
from dbrnet.storage.archive import unpack

ROOT = Path(__file__).parents[2]
COMMITS = {
    "neu-seg": "da8cebedb292beca4d101db8c442d5706fac3bfe",
    "magnetic-tile": "cc4eb530b57b9cb7225bf76023873043ffd50655",
}
CONTENT = {
    "neu-seg": "f4f433fa725b5d49d6b75fb47fb4b0a7cd2d9a5b3dc0086152697f69269240ca",
    "magnetic-tile": "46460200509736ef51652c1823fd62f9c6a8832a8503409401f3f370b9289c2b",
}


def locked(name: str) -> Any:
    return YAML(typ="safe").load((ROOT / f"data/{name}.dvc").read_text())


def repository_files(name: str, archives: Path, workdir: Path) -> Path:
    """The archive's files as a clone has them: without the folder that a download wraps around them."""
    unpack(archives / f"{name}.zip", workdir)
    return find_layout(workdir, READERS[name].layout)


def dvc_hash(folder: Path) -> str:
    """A folder's hash by DVC's rule: the MD5 of the list of its files' MD5s."""
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    listed = [
        {"md5": hashlib.md5((folder / path).read_bytes()).hexdigest(), "relpath": path.as_posix()} for path in files
    ]
    listed.sort(key=lambda file: file["relpath"])
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMITS)
def test_the_import_is_locked_to_the_commit_and_the_archives_bytes(name: str, archives: Path, tmp_path: Path) -> None:
    dependency, out = locked(name)["deps"][0], locked(name)["outs"][0]
    assert dependency["repo"]["url"] == READERS[name].info.homepage
    assert dependency["repo"]["rev"] == dependency["repo"]["rev_lock"] == COMMITS[name]
    assert out["path"] == name
    assert out["md5"] == dvc_hash(repository_files(name, archives, tmp_path))


@dataclass
class Workspace:
    """A DVC project for which the public address is a repository on this machine, by git's insteadOf."""

    folder: Path
    upstream: Path
    home: Path

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "core.autocrlf=false")
        done = subprocess.run(["git", *who, *words], cwd=self.upstream, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def dvc(self, *words: str) -> subprocess.CompletedProcess[str]:
        # HOME, for DVC's git libraries read the settings there, and not those that the environment names.
        environment = os.environ | {"HOME": str(self.home), "DVC_NO_ANALYTICS": "1"}
        command = [sys.executable, "-m", "dvc", *words]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=environment)

    def lock(self, name: str, commit: str) -> None:
        """The committed import, but of a commit that the repository here has."""
        text = (ROOT / f"data/{name}.dvc").read_text()
        assert text.count(COMMITS[name]) == 2
        text = text.replace(COMMITS[name], commit)
        text = "".join(line for line in text.splitlines(True) if not line.startswith("md5: "))
        (self.folder / f"data/{name}.dvc").write_text(text)


def make_workspace(name: str, archives: Path, tmp_path: Path) -> Workspace:
    space = Workspace(tmp_path / "project", tmp_path / "upstream", tmp_path / "home")
    (space.folder / "data").mkdir(parents=True)
    shutil.copytree(ROOT / ".dvc", space.folder / ".dvc", ignore=shutil.ignore_patterns("cache", "tmp", "store"))
    shutil.copy(ROOT / "data/.gitignore", space.folder / "data")
    shutil.move(repository_files(name, archives, tmp_path / "unpacked"), space.upstream)
    space.home.mkdir()
    address = READERS[name].info.homepage
    (space.home / ".gitconfig").write_text(f'[url "{space.upstream}"]\n\tinsteadOf = {address}\n')
    subprocess.run(["git", "init", "-q", str(space.folder)], check=True)
    subprocess.run(["git", "init", "-q", "-b", "main", str(space.upstream)], check=True)
    space.git("add", "--all", "--force")
    space.git("commit", "-q", "-m", "the public files")
    return space


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", COMMITS)
def test_dvc_pull_fetches_the_dataset(name: str, archives: Path, tmp_path: Path) -> None:
    space = make_workspace(name, archives, tmp_path)
    space.lock(name, space.git("rev-parse", "HEAD"))
    pulled = space.dvc("pull", f"data/{name}")
    assert pulled.returncode == 0, pulled.stderr[-2000:]
    assert dvc_hash(space.folder / f"data/{name}") == locked(name)["outs"][0]["md5"]
    out = tmp_path / "out"
    out.mkdir()
    assert build_dataset(name, space.folder / f"data/{name}", out).card.content_hash == CONTENT[name]


@pytest.mark.slow
def test_dvc_pull_refuses_other_content(archives: Path, tmp_path: Path) -> None:
    space = make_workspace("magnetic-tile", archives, tmp_path)
    changed = min(space.upstream.rglob("*.png"))
    changed.write_bytes(changed.read_bytes() + b"\0")
    space.git("commit", "-q", "--all", "-m", "one byte more in one file")
    space.lock("magnetic-tile", space.git("rev-parse", "HEAD"))
    refused = space.dvc("pull", "data/magnetic-tile")
    assert refused.returncode != 0
    assert "Checkout failed for following targets:\ndata/magnetic-tile" in refused.stderr
    assert not (space.folder / "data/magnetic-tile").exists()


def test_git_keeps_the_imports_and_nothing_else_of_data() -> None:
    def ignored(path: str) -> bool:
        command = ["git", "-C", str(ROOT), "check-ignore", "-q", "--no-index", path]
        return subprocess.run(command).returncode == 0

    assert [ignored(f"data/{name}") for name in ("neu-seg", "dataset/card.json", "dvc.zip")] == [True] * 3
    assert not any(ignored(f"data/{name}.dvc") for name in COMMITS)


def test_dvc_knows_the_imports_where_git_ignores_their_folders() -> None:
    command = [sys.executable, "-m", "dvc", "stage", "list", "--all", "--name-only"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    for name in COMMITS:
        assert f"data/{name}.dvc" in done.stdout, done.stderr
