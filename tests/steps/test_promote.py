"""`dbrnet promote` where it cannot register the model; where it can: tests/test_pipeline.py."""

import json
from pathlib import Path

import pytest

from dbrnet.config import PromoteParams
from dbrnet.data.dataset import Dataset
from dbrnet.data.split import split_samples
from dbrnet.data.synthetic import generate
from dbrnet.data.writer import build_dataset
from dbrnet.errors import UserError
from dbrnet.files import sha256_file
from dbrnet.registry.store import open_store
from dbrnet.registry.tracking import start_or_resume_run
from dbrnet.steps.promote import promote
from tests.registry.test_criteria import ASKED, FACTS


def made_data(folder: Path) -> Dataset:
    """A dataset of 40 images and its split, both in `folder`."""
    generate(folder / "source", images=40)
    data = build_dataset("steel-strip", folder / "source", folder, mask_threshold=127)
    splits = split_samples(
        data, {one.id: one.id for one in data.samples}, kind="random", fractions=(0.5, 0.25, 0.25), seed=0
    )
    splits.save(folder)
    return data


def test_a_model_that_cannot_be_registered_leaves_its_training_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    store = open_store(tmp_path)
    with start_or_resume_run(store, "strip", run_id=None, name="train", tags={}) as run:
        pass
    data = made_data(tmp_path)
    model = tmp_path / "model.onnx"
    model.write_bytes(b"no ONNX model")
    digest = {"model_sha256": sha256_file(model)}
    Path("history.csv").write_text("epoch,loss\n1,0.5\n")
    lineage = {
        "run_id": run.run_id,
        "dataset": {"name": "strip", "content_hash": data.card.content_hash},
        "split": FACTS["split"] | {"kind": "groups", "leaks": "no", "sha256": sha256_file(tmp_path / "split.csv")},
        "provenance": {"code_revision": "bb"},
    }
    written = {
        "train": lineage,
        "export": FACTS["export"] | digest | {"model_file": "model.onnx"},
        "champion": FACTS["champion"] | {"model_name": "strip"},
        "benchmark": FACTS["benchmark"] | digest | {"runtimes": {}},
        "metrics": FACTS["metrics"] | digest | {"dataset": "aa"},
    }
    for name, content in written.items():
        Path(f"{name}.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="not a sound ONNX model"):
        promote(PromoteParams.model_validate(ASKED), *[tmp_path] * 7, out=tmp_path / "promote")
    after = store.client.get_run(run.run_id)
    assert (after.info.status, after.data.metrics["loss"]) == ("FINISHED", 0.5)
