"""DVC's store of what the pipeline made: a folder here by default, S3 by one command, and S3 as a source."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.storage.s3_server import BUCKET, S3Server, breaking_way

ROOT = Path(__file__).parents[2]
FILES = {"a.jpg": b"first", "b.jpg": os.urandom(6 << 20), "c.jpg": b"third"}

pytestmark = pytest.mark.slow


@dataclass
class Project:
    """This repository's DVC settings, and a folder `data/set` that DVC keeps."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def dvc(self, *words: str, **settings: str) -> str:
        """Run DVC, which must succeed; what it said."""
        done = self._run(words, settings)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, *words: str, **settings: str) -> list[str]:
        """Run DVC, which must fail; its errors, a line each."""
        done = self._run(words, settings)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
        return [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]

    def _run(self, words: tuple[str, ...], settings: dict[str, str]) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment = inherited | self.environment | settings | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "dvc", *words]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, env=environment)

    def forget(self) -> None:
        """Lose the files and the cache, as a colleague's machine never had them."""
        shutil.rmtree(self.folder / "data/set")
        shutil.rmtree(self.folder / ".dvc/cache")
        shutil.rmtree(self.folder / ".dvc/tmp")

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (self.folder / "data/set").glob("*")}


def make_project(folder: Path) -> Project:
    (folder / "data/set").mkdir(parents=True)
    (folder / ".dvc").mkdir()
    for name in (".dvc/config", ".dvc/.gitignore", "data/.gitignore"):
        shutil.copy(ROOT / name, folder / name)
    for name, content in FILES.items():
        (folder / "data/set" / name).write_bytes(content)
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    project = Project(folder)
    project.dvc("add", "-q", "data/set")
    return project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


@pytest.fixture
def on_s3(project: Project, s3_server: S3Server) -> Project:
    """The project, its store moved to S3 by the command that docs/data.md gives."""
    project.environment = s3_server.environment()
    project.dvc("remote", "modify", "store", "url", f"s3://{BUCKET}/{project.folder.name}")
    return project


def stored(project: Project, server: S3Server) -> dict[str, int]:
    """The objects of the project's store and their sizes."""
    listed = server.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{project.folder.name}/")
    return {item["Key"]: item["Size"] for item in listed.get("Contents", [])}


def test_a_folder_here_is_the_default(project: Project) -> None:
    assert "4 files pushed" in project.dvc("push")
    project.forget()
    project.dvc("pull", "data/set")
    assert project.files() == FILES
    status = ["git", "-C", str(project.folder), "status", "--porcelain", "--untracked-files=all"]
    untracked = subprocess.run(status, capture_output=True, text=True, check=True).stdout.split()[1::2]
    assert set(untracked) == {".dvc/.gitignore", ".dvc/config", "data/.gitignore", "data/set.dvc"}


def test_push_and_pull_through_s3(on_s3: Project, s3_server: S3Server) -> None:
    assert "4 files pushed" in on_s3.dvc("push")
    assert "Everything is up to date" in on_s3.dvc("push")
    on_s3.forget()
    on_s3.environment = s3_server.environment("reader")
    on_s3.dvc("pull", "data/set")
    assert on_s3.files() == FILES


def test_a_push_that_may_not_write(on_s3: Project, s3_server: S3Server) -> None:
    wrong = on_s3.refused("push", AWS_SECRET_ACCESS_KEY="s3cret")
    assert len(wrong) == 1
    assert "403" in wrong[0]
    assert "Forbidden" in wrong[0]
    *each, total = on_s3.refused("push", **s3_server.environment("reader"))
    assert total == "ERROR: failed to push data to the cloud - 4 files failed to upload"
    assert all("AccessDenied" in line and "PutObject" in line for line in each)
    assert stored(on_s3, s3_server) == {}
    on_s3.dvc("remote", "modify", "store", "url", "s3://none/store")
    missing = on_s3.refused("push")
    assert len(missing) == 1
    assert "The specified bucket does not exist" in missing[0]


def test_a_connection_that_breaks_off_leaves_nothing_half_written(on_s3: Project, s3_server: S3Server) -> None:
    whole = {len(content) for content in FILES.values()}
    with breaking_way(s3_server.port, after=1 << 20) as port:
        way = s3_server.environment(port=port)
        pushing = on_s3.refused("push", **way)
        assert pushing[-1].startswith("ERROR: failed to push data to the cloud - ")
        assert len(FILES["b.jpg"]) not in stored(on_s3, s3_server).values()
        on_s3.dvc("push")
        assert whole < set(stored(on_s3, s3_server).values())
        on_s3.forget()
        pulling = on_s3.refused("pull", **way)
    assert any("failed to" in line for line in pulling)
    assert not (on_s3.folder / "data/set/b.jpg").exists()
    on_s3.dvc("pull")
    assert on_s3.files() == FILES


def test_a_pull_that_cannot_be(on_s3: Project, s3_server: S3Server) -> None:
    on_s3.dvc("push")
    on_s3.forget()
    wrong = on_s3.refused("pull", AWS_SECRET_ACCESS_KEY="s3cret")
    assert "Forbidden" in wrong[0]
    away = on_s3.refused("pull", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert 'Could not connect to the endpoint URL: "http://127.0.0.1:9' in away[0]
    assert "s3cret" not in "".join(wrong + away)
    on_s3.dvc("remote", "modify", "store", "url", "s3://none/store")
    assert on_s3.refused("pull") == [
        "ERROR: failed to pull data from the cloud - Checkout failed for following targets:"
    ]
    assert not (on_s3.folder / "data/set").exists()


def test_an_s3_source_is_read_again_when_its_content_changes(tmp_path: Path, s3_server: S3Server) -> None:
    client, prefix = s3_server.client(), f"source-{tmp_path.name}"
    for name in ("a", "b"):
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/{name}.txt", Body=name.encode())
    project = make_project(tmp_path)
    project.environment = s3_server.environment()
    (project.folder / "params.yaml").write_text(f"ingest:\n  source: s3://{BUCKET}/{prefix}/\n")
    stage = "stages:\n  ingest:\n    cmd: mkdir out\n    deps: ['${ingest.source}']\n    outs: [out]\n"
    (project.folder / "dvc.yaml").write_text(stage)

    def runs() -> bool:
        return "Running stage 'ingest'" in project.dvc("repro")

    assert runs()
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/a.txt", Body=b"a")
    assert not runs()
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/a.txt", Body=b"c")
    assert runs()
    client.delete_object(Bucket=BUCKET, Key=f"{prefix}/b.txt")
    assert runs()
    assert not runs()
