"""`dbrnet predict` as it is typed: its exit status, its one line, and what it leaves."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dbrnet.cli import main
from dbrnet.data.dataset import Image
from dbrnet.inference.runtimes import why_not_available
from dbrnet.models.dbrnet import DBRNet
from dbrnet.models.saved import ModelMeta, save_model
from tests.inference.conftest import files_below, save
from tests.storage.s3_server import BUCKET, S3Server

Exported = tuple[Path, DBRNet, ModelMeta]


@pytest.fixture
def line(exported: Exported, make_image: Callable[..., Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: two images in line3/, and the network as model.onnx and model.pt."""
    for seed in range(2):
        save(tmp_path / f"line3/{seed}.png", make_image(48, 64, seed))
    (tmp_path / "model.onnx").symlink_to(exported[0])
    save_model(tmp_path / "model.pt", *exported[1:])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: str) -> int:
    return main(["predict", *words.split(), "--out", "out"])


@pytest.mark.parametrize("words", ["--model model.onnx", "--model model.pt", "--model model.onnx --batch 4"])
def test_both_kinds_of_model(line: Path, words: str) -> None:
    assert run(f"line3 {words} --formats masks,rle") == 0
    assert sorted(files_below(line / "out")) == ["masks/0.png", "masks/1.png", "submission.csv", "summary.csv"]


def test_a_runtime_by_name(line: Path, caplog: pytest.LogCaptureFixture) -> None:
    if reason := why_not_available("openvino-fp32"):
        pytest.skip(reason)
    with caplog.at_level("INFO"):
        assert run("line3/*.png --model model.onnx --runtime openvino-fp32") == 0
    assert "2 images predicted by openvino-fp32" in caplog.text


@pytest.mark.slow
def test_images_in_s3_are_named_by_their_address(line: Path, s3: S3Server) -> None:
    for path in (line / "line3").iterdir():
        s3.client().put_object(Bucket=BUCKET, Key=f"tool/{path.name}", Body=path.read_bytes())
    assert run("line3 --model model.onnx") == 0
    local = files_below(line / "out")
    assert run(f"s3://{BUCKET}/tool/ --model model.onnx") == 0
    fetched = files_below(line / "out")
    assert f"s3://{BUCKET}/tool/0.png,0," in fetched["summary.csv"].decode()
    assert local | {"summary.csv": b""} == fetched | {"summary.csv": b""}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("line3 --model gone.onnx", "gone.onnx: cannot be read"),
        ("line3 --model gone.pt", "gone.pt does not exist"),
        ("line3 --model broken.onnx", "broken.onnx: not a readable ONNX file"),
        ("line3 --model broken.pt", "give a model.pt that the train step wrote"),
        ("line3 --model foreign.onnx", "foreign.onnx: an ONNX file, but not one that `dbrnet export` wrote"),
        ("line3 --model model.pt --runtime onnxruntime-cpu", "model.pt: onnxruntime-cpu cannot run it"),
        ("line3 --model model.onnx --runtime pytorch-eager", "pytorch-eager cannot run it"),
        ("line3 --model model.onnx --runtime fast", "no runtime 'fast'; choose one of pytorch-eager"),
        ("line3 --model model.onnx --runtime onnxruntime-cuda", "onnxruntime-cuda is not available"),
        ("line3 --model model.onnx --formats masks,jpeg", "no format 'jpeg'; choose of masks, overlays, rle, coco"),
        ("line3 --model model.onnx --batch 0", "--batch is 0"),
        ("line3 --model model.onnx --bit-depth 17", "--bit-depth is 17"),
        ("line4 --model model.onnx", "line4: there is no such file or folder"),
        ("line3 line3/2.png --model model.onnx", "line3/2.png: there is no such file"),
        ("line3/*.jpg --model model.onnx", "line3/*.jpg: no image or video there"),
        ("empty --model model.onnx", "empty: no image or video there"),
    ],
)
def test_wrong_words_are_one_line_and_status_2_and_nothing_is_written(
    line: Path, words: str, expected: str, capsys: pytest.CaptureFixture[str], exported: Exported
) -> None:
    if "cuda" in words and why_not_available("onnxruntime-cuda") is None:
        pytest.skip("needs a machine without CUDA in ONNX Runtime: it tests the refusal")
    content = exported[0].read_bytes()
    (line / "broken.onnx").write_bytes(content[: len(content) // 2])
    (line / "broken.pt").write_bytes((line / "model.pt").read_bytes()[:5000])
    (line / "foreign.onnx").write_bytes(content.replace(b"dbrnet", b"dbrnot"))
    (line / "empty").mkdir()
    assert run(words) == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert message.startswith("error: ")
    assert expected in message
    assert not (line / "out").exists()


def test_a_broken_image_is_status_1_and_one_line(line: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line / "line3/0.png").write_bytes(b"")
    assert run("line3 --model model.onnx") == 1
    (message,) = capsys.readouterr().err.splitlines()
    assert message == (
        "failed: 1 predicted, 1 not: line3/0.png: the file is empty (0 bytes); fetch it again or remove it"
    )
    assert sorted(files_below(line / "out")) == ["masks/1.png", "overlays/1.jpg", "summary.csv"]


def test_the_bit_depth_is_the_cameras(line: Path) -> None:
    deep = np.random.default_rng(0).integers(0, 4096, (48, 64, 3)).astype(np.uint16)
    save(line / "deep/a.png", deep)  # type: ignore[arg-type]
    save(line / "shallow/a.png", (deep >> 4).astype(np.uint8))
    assert run("deep --model model.onnx --bit-depth 12 --formats masks,coco") == 0
    by_depth = files_below(line / "out")
    assert run("shallow --model model.onnx --formats masks,coco") == 0
    assert by_depth["masks/a.png"] == files_below(line / "out")["masks/a.png"]
    assert run("deep --model model.onnx --bit-depth 16") == 1
