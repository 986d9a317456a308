"""What the steps before wrote: an exported network, its model.pt, a dataset and its split."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import pytest
import torch

from dbrnet.data.dataset import Dataset, Image, Sample
from dbrnet.data.split import split_samples
from dbrnet.files import sha256_file
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta, save_model
from tests.data.conftest import make_dataset
from tests.reports import examples


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Runtimes set PyTorch's threads for the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class Job:
    """The folders that the benchmark step reads."""

    dataset: Path
    split: Path
    trained: Path
    exported: Path
    champion: Path
    evaluated: Path


@pytest.fixture(scope="session")
def job(
    exported: tuple[Path, DBRNet, ModelMeta], make_image: Callable[..., Image], tmp_path_factory: pytest.TempPathFactory
) -> Job:
    file, model, meta = exported
    root = tmp_path_factory.mktemp("job")
    names = ("dataset", "split", "trained", "exported", "champion", "evaluated")
    folders = Job(*(root / name for name in names))
    for folder in (folders.split, folders.trained, folders.exported, folders.champion, folders.evaluated):
        folder.mkdir()
    save_model(folders.trained / "model.pt", model, meta)
    (folders.exported / "model.onnx").write_bytes(file.read_bytes())
    runtimes = ("onnxruntime-cpu", "onnxruntime-cuda")
    examples.change(examples.export(runtimes), model_sha256=sha256_file(file)).save(folders.exported)
    examples.no_champion().save(folders.champion)
    scored = {"onnxruntime-cpu": examples.parity(miou=0.75)}
    examples.change(examples.evaluation(), runtimes=scored).save(folders.evaluated)
    _dataset(folders.dataset, folders.split, meta, make_image)
    table = sha256_file(folders.split / "split.csv")
    examples.change(examples.train(), dataset__content_hash="ab" * 32, split__sha256=table).save(folders.trained)
    return folders


def _dataset(root: Path, split: Path, meta: ModelMeta, make_image: Callable[..., Image]) -> None:
    """Forty images of 64x96 and 48x80; each class in ten of them."""
    (root / "images").mkdir(parents=True)
    samples = []
    for number in range(40):
        size = (64, 96) if number % 2 else (48, 80)
        name = f"images/p{number:02d}.{'jpg' if number % 3 else 'png'}"
        cv2.imwrite(str(root / name), make_image(*size, seed=number))
        label = number % len(meta.classes)
        samples.append(
            Sample(f"p{number:02d}", name, "none", *size, (label,) if label else (), f"g{number}", "0" * 64, "0" * 64)
        )
    card = replace(make_dataset(root, tuple(samples), ()).card, classes=meta.classes, content_hash="ab" * 32)
    dataset = Dataset(root, card, tuple(samples))
    dataset.save_tables()
    groups = {sample.id: sample.group for sample in samples}
    split_samples(dataset, groups, kind="groups", fractions=(0.3, 0.2, 0.5), seed=0).save(split)
