"""This repository's DVC settings: the public datasets as locked imports, and the store of results, here or in S3."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from dbrnet.data.readers import READERS, find_layout
from dbrnet.storage.archive import unpack
from tests.data.conftest import build
from tests.storage.s3_server import BUCKET, S3Server, breaking_way

ROOT = Path(__file__).parents[2]
COMMITS = {
    "neu-seg": "da8cebedb292beca4d101db8c442d5706fac3bfe",
    "magnetic-tile": "cc4eb530b57b9cb7225bf76023873043ffd50655",
}
CONTENT = {
    "neu-seg": "f4f433fa725b5d49d6b75fb47fb4b0a7cd2d9a5b3dc0086152697f69269240ca",
    "magnetic-tile": "46460200509736ef51652c1823fd62f9c6a8832a8503409401f3f370b9289c2b",
}
FILES = {"a.jpg": b"first", "b.jpg": os.urandom(6 << 20), "c.jpg": b"third"}


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

    def dvc_fails(self, *words: str, **settings: str) -> list[str]:
        """Run DVC, which must fail without a traceback; the lines of its errors."""
        done = self._run(words, settings)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]

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


def locked(name: str) -> Any:
    return YAML(typ="safe").load((ROOT / f"data/{name}.dvc").read_text())


def repository_files(name: str, archives: Path, workdir: Path) -> Path:
    """The archive's files as in a clone: without the folder that a download wraps around them."""
    unpack(archives / f"{name}.zip", workdir)
    return find_layout(workdir, READERS[name].layout)


@pytest.mark.parametrize("name", COMMITS)
def test_import_is_locked_to_a_commit_of_the_readers_homepage(name: str) -> None:
    repository = locked(name)["deps"][0]["repo"]
    assert repository["url"] == READERS[name].info.homepage
    assert repository["rev"] == repository["rev_lock"] == COMMITS[name]
    assert locked(name)["outs"][0]["path"] == name


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
    assert "Checkout failed for following targets:" in errors[-1]
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


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project whose folder `data/set` DVC keeps."""
    project = Project.make(tmp_path)
    (project.folder / "data/set").mkdir()
    for name, content in FILES.items():
        (project.folder / "data/set" / name).write_bytes(content)
    project.dvc("add", "-q", "data/set")
    return project


@pytest.fixture
def on_s3(project: Project, s3_server: S3Server) -> Project:
    """The project, its store moved to S3 by the command in docs/data.md."""
    project.environment |= s3_server.environment()
    project.dvc("remote", "modify", "store", "url", f"s3://{BUCKET}/{project.folder.name}")
    return project


def forget(project: Project) -> None:
    """Remove files and cache: the state of another machine."""
    for name in ("data/set", ".dvc/cache", ".dvc/tmp"):
        shutil.rmtree(project.folder / name)


def files(project: Project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.folder / "data/set").glob("*")}


def stored(project: Project, server: S3Server) -> set[int]:
    """The sizes of the objects in the project's store."""
    listed = server.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{project.folder.name}/")
    return {item["Size"] for item in listed.get("Contents", [])}


@pytest.mark.slow
def test_local_folder_is_the_default(project: Project) -> None:
    assert "4 files pushed" in project.dvc("push")
    forget(project)
    project.dvc("pull", "data/set")
    assert files(project) == FILES
    status = ["git", "-C", str(project.folder), "status", "--porcelain", "--untracked-files=all"]
    untracked = subprocess.run(status, capture_output=True, text=True, check=True).stdout.split()[1::2]
    assert set(untracked) == {".dvc/.gitignore", ".dvc/config", "data/.gitignore", "data/set.dvc"}


@pytest.mark.slow
def test_push_and_pull_through_s3(on_s3: Project, s3_server: S3Server) -> None:
    assert "4 files pushed" in on_s3.dvc("push")
    assert "Everything is up to date" in on_s3.dvc("push")
    forget(on_s3)
    on_s3.dvc("pull", "data/set", **s3_server.environment("reader"))
    assert files(on_s3) == FILES


@pytest.mark.slow
def test_push_without_permission_is_an_error(on_s3: Project, s3_server: S3Server) -> None:
    (wrong_key,) = on_s3.dvc_fails("push", AWS_SECRET_ACCESS_KEY="s3cret")
    assert "403" in wrong_key
    assert "Forbidden" in wrong_key
    *each, total = on_s3.dvc_fails("push", **s3_server.environment("reader"))
    assert total == "ERROR: failed to push data to the cloud - 4 files failed to upload"
    assert all("AccessDenied" in line and "PutObject" in line for line in each)
    assert stored(on_s3, s3_server) == set()
    on_s3.dvc("remote", "modify", "store", "url", "s3://none/store")
    (missing,) = on_s3.dvc_fails("push")
    assert "The specified bucket does not exist" in missing


@pytest.mark.slow
def test_broken_connection_leaves_nothing_half_written(on_s3: Project, s3_server: S3Server) -> None:
    whole = {len(content) for content in FILES.values()}
    with breaking_way(s3_server.port, after=1 << 20) as port:
        breaking = s3_server.environment(port=port)
        failed = on_s3.dvc_fails("push", **breaking)
        assert failed[-1].startswith("ERROR: failed to push data to the cloud - ")
        assert len(FILES["b.jpg"]) not in stored(on_s3, s3_server)
        on_s3.dvc("push")
        assert whole < stored(on_s3, s3_server)
        forget(on_s3)
        assert any("failed to" in line for line in on_s3.dvc_fails("pull", **breaking))
    assert not (on_s3.folder / "data/set/b.jpg").exists()
    on_s3.dvc("pull")
    assert files(on_s3) == FILES


@pytest.mark.slow
def test_failed_pull_names_the_reason_and_no_secret(on_s3: Project) -> None:
    on_s3.dvc("push")
    forget(on_s3)
    wrong_key = on_s3.dvc_fails("pull", AWS_SECRET_ACCESS_KEY="s3cret")
    assert "Forbidden" in wrong_key[0]
    away = on_s3.dvc_fails("pull", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert 'Could not connect to the endpoint URL: "http://127.0.0.1:9' in away[0]
    assert "s3cret" not in "".join(wrong_key + away)
    on_s3.dvc("remote", "modify", "store", "url", "s3://none/store")
    assert on_s3.dvc_fails("pull") == [
        "ERROR: failed to pull data from the cloud - Checkout failed for following targets:"
    ]
    assert not (on_s3.folder / "data/set").exists()


@pytest.mark.slow
def test_s3_source_is_read_again_when_its_content_changes(tmp_path: Path, s3_server: S3Server) -> None:
    client, prefix = s3_server.client(), f"source-{tmp_path.name}"
    project = Project.make(tmp_path)
    project.environment |= s3_server.environment()
    (project.folder / "params.yaml").write_text(f"ingest:\n  source: s3://{BUCKET}/{prefix}/\n")
    stage = "stages:\n  ingest:\n    cmd: mkdir out\n    deps: ['${ingest.source}']\n    outs: [out]\n"
    (project.folder / "dvc.yaml").write_text(stage)

    def put(name: str, body: bytes) -> None:
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}.txt", Body=body)

    def runs() -> bool:
        return "Running stage 'ingest'" in project.dvc("repro")

    put("a", b"a")
    put("b", b"b")
    assert runs()
    put("a", b"a")
    assert not runs()
    put("a", b"c")
    assert runs()
    client.delete_object(Bucket=BUCKET, Key=f"{prefix}/b.txt")
    assert runs()
    assert not runs()
