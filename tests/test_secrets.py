"""Passwords and signatures in addresses: no command shows or writes them, whatever goes wrong on the way.

Each command runs as its user runs it; all that it printed and every file that it wrote is searched.
"""

import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from botocore.config import Config

from dbrnet.cli import main
from tests.command_lines import LINES, arguments_of, is_positional, type_of
from tests.http_server import Server, serving
from tests.registry.servers import free_port
from tests.secret import ADDRESS, QUERY, SECRET, Answers, Told, found_in, set_alone, told

ROOT = Path(__file__).parents[1]
Run = Callable[..., Told]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `dbrnet WORDS` in an empty folder, and finds no secret in what it printed and wrote."""
    set_alone(monkeypatch)
    folder = tmp_path / "project"
    (folder / "recipes").mkdir(parents=True)
    (folder / "recipes/steel-strip.yaml").write_text((ROOT / "recipes/steel-strip.yaml").read_text())
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(folder)

    def run(*words: str, given: tuple[str, ...] = ("params.yaml",)) -> Told:
        found = told(main, words, tmp_path / "log")
        assert SECRET not in found.text, found.text
        assert not found_in(folder, given)
        return found

    return run


def set_source(source: str) -> None:
    path = Path("params.yaml")
    assert "source: data/steel-strip " in path.read_text()
    path.write_text(path.read_text().replace("source: data/steel-strip ", f"source: {source!r} "))


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("number", ["1", ADDRESS], ids=["numbers", "no numbers"])
def test_an_address_for_every_argument(line: str, number: str, run: Run) -> None:
    words = line.split()
    for name, argument in arguments_of(line).items():
        if name != "params":
            flag = [] if is_positional(argument) else [f"--{name.replace('_', '-')}"]
            value = {bool: [], int: [number]}.get(type_of(argument), [ADDRESS])
            words += [*flag, *value]
    run(*words)
    run(*words, "--no-such", ADDRESS).failed()
    if "params" in arguments_of(line):
        run(*words, "--params", ADDRESS).failed()


def an_archive(names: tuple[str, ...], content: bytes = b"no image") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(name, content)
    return made.getvalue()


STRIP = an_archive(("train.csv", "train_images/a.jpg"), b"ImageId,ClassId,EncodedPixels\na.jpg,1,1 3\n")
BROKEN = {
    "forbidden.zip": (403, {}, f"the signature {SECRET} is wrong".encode()),
    "missing.zip": (404, {}, b""),
    "sick.zip": (500, {}, b""),
    "hung.zip": (0, {}, b""),
    "cut.zip": (200, {"Content-Length": "500000"}, STRIP),
    "chunk.zip": (200, {"Transfer-Encoding": "chunked", "Content-Length": "0"}, b"ffff\r\n" + STRIP),
    "huge.zip": (200, {"Content-Length": str(1 << 50)}, b""),
    "endless.zip": (200, {"Content-Length": SECRET}, b""),
    "page.zip": (200, {}, b"<html>log in first"),
    "damaged.zip": (200, {}, STRIP[:40] + bytes(20) + STRIP[60:]),
    "wrong.zip": (200, {}, an_archive(("readme.txt",))),
    "images.zip": (200, {}, STRIP),
    "outside.zip": (200, {}, an_archive(("../a.jpg",))),
    "moved.zip": (302, {"Location": f"/missing.zip{QUERY}"}, b""),
    "elsewhere.zip": (302, {"Location": ADDRESS}, b""),
    "by-ftp.zip": (302, {"Location": ADDRESS.replace("https", "ftp")}, b""),
    "by-file.zip": (302, {"Location": f"file:///raw.zip{QUERY}"}, b""),
    "round.zip": (302, {"Location": f"/round.zip{QUERY}"}, b""),
}


@pytest.fixture(scope="module")
def files() -> Iterator[Server]:
    with serving(Answers, BROKEN) as server:
        yield server


@pytest.mark.parametrize("dataset", ["steel-strip", "factory"])
@pytest.mark.parametrize("name", [*BROKEN, ""])
def test_a_signed_source_that_fails(name: str, dataset: str, files: Server, run: Run) -> None:
    set_source(f"http://{files.place}/{name}{QUERY}")
    params = Path("params.yaml").read_text().replace("dataset: steel-strip", f"dataset: {dataset}")
    classes = "[crack]" if dataset == "factory" else "[]"
    Path("params.yaml").write_text(params.replace("classes: []", f"classes: {classes}"))
    before = sorted(Path().iterdir())
    found = run("ingest", "--out", "dataset")
    found.failed()
    assert f"http://{files.place}/{name}" in found.text
    run("revision")
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    "source",
    [
        ADDRESS,
        f"http://{SECRET}@data.invalid/raw.zip",
        f"http://ann:{SECRET}/1@data.invalid/raw.zip",
        f"https://data.invalid/raw.zip{QUERY}",
        f"https://data.invalid:{SECRET}/raw.zip",
        f"https://[::1/raw.zip{QUERY}",
        f"https://data.invalid/raw set.zip?signature={SECRET} {SECRET}",
        f"http://{64 * 'a'}.invalid/raw.zip{QUERY}",
        f"s3://KEY:{SECRET}@steel/line3/",
        f"s3://steel/line3/raw.zip{QUERY}",
        f"ftp://ann:{SECRET}@data.invalid/raw.zip",
        f"https:/data.invalid/raw.zip{QUERY}",
    ],
)
def test_a_source_that_leads_nowhere(source: str, run: Run) -> None:
    set_source(source)
    run("ingest", "--out", "dataset").failed()
    run("revision").failed()
    if " " not in source:
        run("configure", "steel-strip", "--source", source)


def test_params_that_are_no_yaml(run: Run) -> None:
    for wrong in (f"{ADDRESS}: x", f"'{ADDRESS}", f"{40 * 'x'}, source: {ADDRESS}: x", f"[{ADDRESS}"):
        Path("params.yaml").write_text(f"ingest:\n  source: {wrong}\n")
        run("revision").failed()


ANSWERS = {
    "refused": (401, {}, b""),
    "forbidden": (403, {}, f'{{"error_code": "PERMISSION_DENIED", "message": "not {ADDRESS}"}}'.encode()),
    "missing": (404, {}, f'{{"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "{ADDRESS}"}}'.encode()),
    "sick": (500, {}, f'{{"error_code": "INTERNAL_ERROR", "message": "at {ADDRESS}"}}'.encode()),
    "a page": (200, {}, f"<html>log in at {ADDRESS}".encode()),
    "hung up": (0, {}, b""),
    "moved": (302, {"Location": ADDRESS}, b""),
}
ASKING_MLFLOW = [
    ("fetch-champion", "--out", "champion"),
    *(("registry", *words) for words in (("history",), ("show", "1"), ("diff", "1", "2"), ("approve", "1"))),
    ("registry", "reject", "1", "--why", "old"),
    ("registry", "rollback", "--why", "old"),
    ("predict", "a.jpg", "--model", "models:/dbrnet-steel-strip@champion", "--out", "answers"),
    ("serve", "--model", "models:/dbrnet-steel-strip/1", "--port", "0"),
]


@pytest.mark.parametrize("answer", [*ANSWERS, "away"])
def test_a_tracking_store_that_fails(answer: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Answers, {"": ANSWERS.get(answer, ANSWERS["sick"])}) as server:
        place = f"127.0.0.1:{free_port()}" if answer == "away" else server.place
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:{SECRET}@{place}/mlflow")
        for words in ASKING_MLFLOW:
            run(*words).failed()
        assert run("notify", "--run", "nightly", "--state", "FAILED", "--error", ADDRESS).status == 0


@pytest.mark.parametrize(
    "uri",
    [
        f"http://ann:{SECRET}/1@127.0.0.1:1",
        f"http://127.0.0.1:1/mlflow{QUERY}",
        f"http://127.0.0.1:{SECRET}",
        f"ann:{SECRET}@mlflow.invalid:5000",
        f"ftp://ann:{SECRET}@mlflow.invalid",
        f"sqlite:////nowhere/mlflow.db?token={SECRET}",
        f"mysql://mlflow:{SECRET}@127.0.0.1:1/mlflow?password={SECRET}",  # whose driver is not installed
    ],
)
def test_a_tracking_address_that_is_wrong(uri: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for words in ASKING_MLFLOW:
        assert run(*words).status in {1, 2}


@pytest.mark.parametrize("status", [403, 404, 500, 0, 302, 200])
def test_a_webhook(status: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(Answers, {"": (status, {"Location": f"/{SECRET}{QUERY}"}, SECRET.encode())}) as server:
        for address in (
            f"http://{server.place}/services/T0/{SECRET}{QUERY}",
            f"http://ann:{SECRET}@{server.place}/{SECRET}",
            f"http://127.0.0.1:{SECRET}/{SECRET}",
            f"http://127.0.0.1:{free_port()}/{SECRET}",
            f"ftp://{server.place}/{SECRET}",
            SECRET,
        ):
            monkeypatch.setenv("DBRNET_NOTIFY_URL", address)
            found = run("notify", "--run", "nightly", "--state", "FAILED", "--error", f"at {ADDRESS}")
            if status == 200 and address.startswith(f"http://{server.place}"):
                assert found.status == 0
            else:
                found.failed()


@pytest.mark.parametrize("answer", [403, 500, None], ids=["forbidden", "sick", "away"])
@pytest.mark.parametrize("login", [f"ann:{SECRET}@", ""], ids=["a login", "no login"])
def test_an_object_store_that_fails(answer: int | None, login: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"<Error><Code>AccessDenied</Code><Message>key {SECRET} of {ADDRESS}</Message></Error>".encode()
    set_source("s3://steel/line3/")
    with serving(Answers, {"": (answer or 500, {"Content-Type": "application/xml"}, body)}) as server:
        place = server.place if answer else f"127.0.0.1:{free_port()}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{login}{place}")
        monkeypatch.setattr("dbrnet.storage.s3._CONFIG", Config(retries={"total_max_attempts": 1}))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ann")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        monkeypatch.setattr("dbrnet.commands.worker.TERMINATION_LOG", Path("termination.log").absolute())
        run("ingest", "--out", "dataset").failed()
        run("revision").failed()
        run("worker", "s3://steel/jobs/1/", "--checkpoints", "checkpoints").failed()
        assert Path("termination.log").read_text()
        for word in ("s3://steel/line3/", f"s3://steel/a.jpg{QUERY}", f"s3://KEY:{SECRET}@steel/a.jpg"):
            run("worker", word, "--checkpoints", "checkpoints").failed()
