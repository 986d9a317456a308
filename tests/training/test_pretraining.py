from pathlib import Path

import numpy as np
import pytest
import torch

from dbrnet.cli import main
from dbrnet.records import PretrainRecord
from dbrnet.training.pretraining import GeneratedCrops, GeneratedImages
from dbrnet.training.start import Start


def test_crops_depend_on_seed_and_place_alone() -> None:
    crops, other = GeneratedCrops((64, 96), seed=0), GeneratedCrops((64, 96), seed=1)
    image, mask = crops[7]
    assert (tuple(image.shape), tuple(mask.shape)) == ((64, 96, 3), (64, 96))
    assert torch.equal(image, GeneratedCrops((64, 96), seed=0)[7][0])
    assert not torch.equal(image, crops[8][0])
    assert not torch.equal(image, other[7][0])
    # Some have their exposure as drawn, and most a normal one.
    normal = [abs(float(crops[place][0].float().mean()) - 128) < 12 for place in range(60)]
    assert 30 < sum(normal) < 60


def test_what_it_is_scored_on_is_no_crop_of_any_seed() -> None:
    images = GeneratedImages((48, 48))
    assert len(images.samples) == 64
    assert np.array_equal(images[5][0], GeneratedImages((48, 48))[5][0])
    seen = {GeneratedCrops((48, 48), seed)[place][0].numpy().tobytes() for seed in range(3) for place in range(64)}
    assert not seen & {images[index][0].tobytes() for index in range(64)}


@pytest.mark.slow
def test_the_command_resumes_and_writes_a_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dbrnet.training.pretraining.SIZE", (32, 32))
    assert main(["pretrain", "--out", "weights", "--steps", "3"]) == 0
    record = PretrainRecord.load(tmp_path / "weights")
    start = Start.read(tmp_path / "weights" / PretrainRecord.WEIGHTS, "mine")
    assert (record.steps, record.seed, record.sha256) == (3, 0, start.digest)
    assert not list(tmp_path.glob(".weights*"))
    assert main(["pretrain", "--out", "again", "--steps", "3"]) == 0
    assert PretrainRecord.load(tmp_path / "again").sha256 == record.sha256  # the same seed, the same bits
    assert main(["pretrain", "--out", "other", "--steps", "0"]) == 2
    assert "--steps 0: from 1 to" in capsys.readouterr().err
