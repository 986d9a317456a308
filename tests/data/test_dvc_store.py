"""DVC's store of the pipeline's results: a folder here by default, S3 by one command, and S3 as a source."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.data.dvc_project import Project
from tests.storage.s3_server import BUCKET, S3Server, breaking_way

FILES = {"a.jpg": b"first", "b.jpg": os.urandom(6 << 20), "c.jpg": b"third"}

pytestmark = pytest.mark.slow


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


def errors(stderr: str) -> list[str]:
    return [line for line in stderr.splitlines() if line.startswith("ERROR: ")]


def stored(project: Project, server: S3Server) -> set[int]:
    """The sizes of the objects in the project's store."""
    listed = server.client().list_objects_v2(Bucket=BUCKET, Prefix=f"{project.folder.name}/")
    return {item["Size"] for item in listed.get("Contents", [])}


def test_local_folder_is_the_default(project: Project) -> None:
    assert "4 files pushed" in project.dvc("push")
    forget(project)
    project.dvc("pull", "data/set")
    assert files(project) == FILES
    status = ["git", "-C", str(project.folder), "status", "--porcelain", "--untracked-files=all"]
    untracked = subprocess.run(status, capture_output=True, text=True, check=True).stdout.split()[1::2]
    assert set(untracked) == {".dvc/.gitignore", ".dvc/config", "data/.gitignore", "data/set.dvc"}


def test_push_and_pull_through_s3(on_s3: Project, s3_server: S3Server) -> None:
    assert "4 files pushed" in on_s3.dvc("push")
    assert "Everything is up to date" in on_s3.dvc("push")
    forget(on_s3)
    on_s3.dvc("pull", "data/set", **s3_server.environment("reader"))
    assert files(on_s3) == FILES


def test_push_without_permission_is_an_error(on_s3: Project, s3_server: S3Server) -> None:
    (wrong_key,) = errors(on_s3.dvc_fails("push", AWS_SECRET_ACCESS_KEY="s3cret"))
    assert "403" in wrong_key
    assert "Forbidden" in wrong_key
    *each, total = errors(on_s3.dvc_fails("push", **s3_server.environment("reader")))
    assert total == "ERROR: failed to push data to the cloud - 4 files failed to upload"
    assert all("AccessDenied" in line and "PutObject" in line for line in each)
    assert stored(on_s3, s3_server) == set()
    on_s3.dvc("remote", "modify", "store", "url", "s3://none/store")
    (missing,) = errors(on_s3.dvc_fails("push"))
    assert "The specified bucket does not exist" in missing


def test_broken_connection_leaves_nothing_half_written(on_s3: Project, s3_server: S3Server) -> None:
    whole = {len(content) for content in FILES.values()}
    with breaking_way(s3_server.port, after=1 << 20) as port:
        breaking = s3_server.environment(port=port)
        failed = errors(on_s3.dvc_fails("push", **breaking))
        assert failed[-1].startswith("ERROR: failed to push data to the cloud - ")
        assert len(FILES["b.jpg"]) not in stored(on_s3, s3_server)
        on_s3.dvc("push")
        assert whole < stored(on_s3, s3_server)
        forget(on_s3)
        assert any("failed to" in line for line in errors(on_s3.dvc_fails("pull", **breaking)))
    assert not (on_s3.folder / "data/set/b.jpg").exists()
    on_s3.dvc("pull")
    assert files(on_s3) == FILES


def test_failed_pull_names_the_reason_and_no_secret(on_s3: Project) -> None:
    on_s3.dvc("push")
    forget(on_s3)
    wrong_key = errors(on_s3.dvc_fails("pull", AWS_SECRET_ACCESS_KEY="s3cret"))
    assert "Forbidden" in wrong_key[0]
    away = errors(on_s3.dvc_fails("pull", AWS_ENDPOINT_URL="http://127.0.0.1:9"))
    assert 'Could not connect to the endpoint URL: "http://127.0.0.1:9' in away[0]
    assert "s3cret" not in "".join(wrong_key + away)
    on_s3.dvc("remote", "modify", "store", "url", "s3://none/store")
    assert errors(on_s3.dvc_fails("pull")) == [
        "ERROR: failed to pull data from the cloud - Checkout failed for following targets:"
    ]
    assert not (on_s3.folder / "data/set").exists()


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
