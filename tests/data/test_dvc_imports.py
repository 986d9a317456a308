"""The public datasets as DVC imports: they are locked to the archives' content, and DVC checks it."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dbrnet.data.readers import READERS, find_layout
from dbrnet.storage.archive import unpack
from tests.data.conftest import build
from tests.data.dvc_project import ROOT, Project, dvc_hash

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
    """The archive's files as in a clone: without the folder that a download wraps around them."""
    unpack(archives / f"{name}.zip", workdir)
    return find_layout(workdir, READERS[name].layout)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMITS)
def test_import_is_locked_to_the_commit_and_the_archives_bytes(name: str, archives: Path, tmp_path: Path) -> None:
    dependency, out = locked(name)["deps"][0], locked(name)["outs"][0]
    assert dependency["repo"]["url"] == READERS[name].info.homepage
    assert dependency["repo"]["rev"] == dependency["repo"]["rev_lock"] == COMMITS[name]
    assert out["path"] == name
    assert out["md5"] == dvc_hash(repository_files(name, archives, tmp_path))


class Upstream:
    """A repository here in place of a dataset's public one, by git's insteadOf, and a project that imports it."""

    def __init__(self, name: str, archives: Path, tmp_path: Path) -> None:
        self.name, self.folder = name, tmp_path / "upstream"
        self.project = Project.make(tmp_path / "project")
        shutil.move(repository_files(name, archives, tmp_path / "unpacked"), self.folder)
        # HOME, since DVC's git libraries read the settings there and not those that the environment names.
        home = tmp_path / "home"
        home.mkdir()
        (home / ".gitconfig").write_text(f'[url "{self.folder}"]\n\tinsteadOf = {READERS[name].info.homepage}\n')
        self.project.environment["HOME"] = str(home)
        subprocess.run(["git", "init", "-q", "-b", "main", str(self.folder)], check=True)
        self.git("add", "--all", "--force")

    def git(self, *words: str) -> str:
        settings = ("-c", "user.name=test", "-c", "user.email=test@example.org", "-c", "core.autocrlf=false")
        done = subprocess.run(["git", *settings, *words], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit_and_lock(self) -> None:
        """Commit, and place the committed import in the project, changed to this commit."""
        self.git("commit", "-q", "--all", "-m", "the public files")
        text = (ROOT / f"data/{self.name}.dvc").read_text()
        assert text.count(COMMITS[self.name]) == 2
        text = text.replace(COMMITS[self.name], self.git("rev-parse", "HEAD"))
        text = "".join(line for line in text.splitlines(True) if not line.startswith("md5: "))
        (self.project.folder / f"data/{self.name}.dvc").write_text(text)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", COMMITS)
def test_dvc_pull_fetches_the_dataset(name: str, archives: Path, tmp_path: Path) -> None:
    upstream = Upstream(name, archives, tmp_path)
    upstream.commit_and_lock()
    upstream.project.dvc("pull", f"data/{name}")
    pulled = upstream.project.folder / f"data/{name}"
    assert dvc_hash(pulled) == locked(name)["outs"][0]["md5"]
    assert build(name, pulled, tmp_path / "out").card.content_hash == CONTENT[name]


@pytest.mark.slow
def test_dvc_pull_refuses_other_content(archives: Path, tmp_path: Path) -> None:
    upstream = Upstream("magnetic-tile", archives, tmp_path)
    changed = min(upstream.folder.rglob("*.png"))
    changed.write_bytes(changed.read_bytes() + b"\0")
    upstream.commit_and_lock()
    errors = upstream.project.dvc_fails("pull", "data/magnetic-tile")
    assert "Checkout failed for following targets:\ndata/magnetic-tile" in errors
    assert not (upstream.project.folder / "data/magnetic-tile").exists()


def test_git_keeps_only_the_imports_of_data() -> None:
    def ignored(path: str) -> bool:
        command = ["git", "-C", str(ROOT), "check-ignore", "-q", "--no-index", path]
        return subprocess.run(command).returncode == 0

    assert all(ignored(f"data/{name}") for name in ("neu-seg", "dataset/card.json", "dvc.zip"))
    assert not any(ignored(f"data/{name}.dvc") for name in COMMITS)


def test_dvc_knows_the_imports_where_git_ignores_their_folders() -> None:
    command = [sys.executable, "-m", "dvc", "stage", "list", "--all", "--name-only"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    for name in COMMITS:
        assert f"data/{name}.dvc" in done.stdout, done.stderr
