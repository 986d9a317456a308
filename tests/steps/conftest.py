"""What the steps before wrote, on a dataset of eight images, and a store to register models in."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from dbrnet.data.dataset import Dataset, Image, Sample, decode_image
from dbrnet.data.split import Split
from dbrnet.files import sha256_file
from dbrnet.inference.runtimes import open_model
from dbrnet.models.saved import save_model
from dbrnet.records import AuditRecord, SplitCounts
from tests.conftest import CLASSES, Exported
from tests.data.conftest import make_dataset
from tests.drift.conftest import strips, tiny
from tests.registry.conftest import make_model, store
from tests.reports import examples
from tests.reports.examples import change

__all__ = ["make_model", "store", "strips", "tiny"]

SPLITS = {"train": ("p0", "p1"), "val": ("p2",), "test": ("p3", "p4", "p5", "p6", "p7")}
CONTENT = "ab" * 32
RUNTIMES = ("onnxruntime-cpu", "onnxruntime-cuda")


@dataclass(frozen=True)
class Folders:
    """The folders that evaluate and benchmark read; tests that change one take a copy. There is no champion yet."""

    dataset: Path
    split: Path
    trained: Path
    exported: Path
    champion: Path
    evaluated: Path


@pytest.fixture(scope="session")
def folders(exported: Exported, make_image: Callable[..., Image], tmp_path_factory: pytest.TempPathFactory) -> Folders:
    root = tmp_path_factory.mktemp("steps")
    file, model, meta = exported
    folders = Folders(*(root / name for name in Folders.__annotations__))
    for folder in vars(folders).values():
        folder.mkdir()
    dataset = _dataset(folders.dataset, file, make_image)
    counts = {name: SplitCounts(images=len(ids), groups=len(ids), images_by_class={}) for name, ids in SPLITS.items()}
    Split(
        kind="groups",
        seed=0,
        fractions=(0.2, 0.1, 0.7),
        ids=SPLITS,
        groups={sample.id: sample.group for sample in dataset.samples},
        counts=counts,
        leaks="no",
        leak_rate={"val": 0.0, "test": 0.0},
        leak_note="",
        content_hash=CONTENT,
    ).save(folders.split)
    AuditRecord(
        content_hash=CONTENT,
        images=8,
        groups=8,
        groups_by_name=8,
        group_sizes={1: 8},
        links={},
        repeatability=None,
        leaking={"val": 0, "test": 0},
        splits={name: len(ids) for name, ids in SPLITS.items()},
        nn_baseline=examples.scores(miou=0.3),
        method="by hand",
        labelled_differently=0,
    ).save(folders.split)
    save_model(folders.trained / "model.pt", model, meta)
    (folders.trained / "history.csv").write_text("step,loss,val_miou,learning_rate\n1,0.5,0.4,0.1\n")
    table = sha256_file(folders.split / "split.csv")
    change(examples.train(), dataset__title="Tiny", dataset__content_hash=CONTENT, split__sha256=table).save(
        folders.trained
    )
    shutil.copy(file, folders.exported / "model.onnx")
    change(examples.export(RUNTIMES), model_sha256=sha256_file(file)).save(folders.exported)
    examples.no_champion().save(folders.champion)
    scored = {"onnxruntime-cpu": examples.parity(miou=0.75)}
    change(examples.evaluation(), champion=None, model_sha256=sha256_file(file), runtimes=scored).save(
        folders.evaluated
    )
    return folders


def _dataset(root: Path, file: Path, make_image: Callable[..., Image]) -> Dataset:
    """Images of two sizes in two formats; the ground truth is the network's answer, shifted by two pixels."""
    model = open_model(file)
    (root / "images").mkdir()
    (root / "masks").mkdir()
    samples = []
    for number in range(8):
        size = (48, 80) if number in (4, 6) else (64, 96)
        name, suffix = f"p{number}", "jpg" if number in (3, 4) else "png"
        bgr = cv2.cvtColor(make_image(*size, number), cv2.COLOR_RGB2BGR)
        path = root / f"images/{name}.{suffix}"
        cv2.imwrite(str(path), bgr)
        image = decode_image(path.read_bytes(), name)
        truth = np.roll(model.predict(image[None])[0][0], 2, axis=1)
        cv2.imwrite(str(root / f"masks/{name}.png"), truth)
        present = tuple(int(value) for value in np.unique(truth) if value)
        samples.append(
            Sample(name, f"images/{path.name}", f"masks/{name}.png", *size, present, name, "0" * 64, "0" * 64)
        )
    card = replace(make_dataset(root, tuple(samples), ()).card, classes=CLASSES, content_hash=CONTENT)
    dataset = Dataset(root, card, tuple(samples))
    dataset.save_tables()
    return dataset


def write_champion(folder: Path, model: Path, trained_on: tuple[str, ...] | None = None) -> Path:
    """What fetch-champion writes of version 3; `trained_on`: the images that it is known to have learned from."""
    folder.mkdir()
    shutil.copy(model, folder / "model.onnx")
    if trained_on is not None:
        rows = [f"{id_},{'train' if id_ in trained_on else 'val'},g" for id_ in ("p0", "p3", "p4", "p5", "p9")]
        (folder / "split.csv").write_text("\n".join(["id,split,group", *rows, ""]))
    change(examples.no_champion(), version=3, sha256=sha256_file(model)).save(folder)
    return folder
